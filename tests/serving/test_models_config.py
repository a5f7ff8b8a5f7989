"""``models.config``: what is read from it, and what is refused."""

from __future__ import annotations

import pytest

from limaml_serving.server import ConfigError, ModelSettings, VersionPolicy, read_models_config


@pytest.mark.parametrize("name", ["", "a\0b", "two\nlines", "x" * 2000])
def test_a_model_name_that_is_empty_endless_or_breaks_lines_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is not allowed"):
        ModelSettings(name=name, base_path=tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        'base_path: "file://{}" model_platform: "tensorflow"',
        'base_path: "{}" model_type: TENSORFLOW',
    ],
)
def test_the_other_ways_to_write_a_platform_and_a_path_are_read(tmp_path, settings):
    path = tmp_path / "models.config"
    one = settings.format(tmp_path / "m")
    path.write_text('model_config_list { config { name: "m" ' + one + " } }")
    assert read_models_config(path)["m"].base_path == tmp_path / "m"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'model_config_list { config { name: "m" base_path: "gs://b/m" model_platform: "tensorflow" } }',  # noqa: E501
            "not on this machine",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" model_type: TENSORFLOW } }',  # noqa: E501
            "not both",
        ),
        ("hello", "not a text proto"),
        ("custom_model_config {}", "only a model_config_list"),
        (
            'model_config_list { config { name: "m" base_path: "/m" } }',
            "model_platform must be 'tensorflow'",
        ),
        (
            'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" } }',  # noqa: E501
            "must be absolute",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" model_version_policy { specific {} } } }',  # noqa: E501
            "names no version",
        ),
        (
            "model_config_list { "
            + 'config { name: "m" base_path: "/m" model_platform: "tensorflow" } ' * 2
            + "}",
            "more than once",
        ),
    ],
)
def test_a_models_config_that_cannot_be_served_is_refused_with_the_reason(tmp_path, text, words):
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_models_config(path)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"count": 0}, "count must be a whole number, at least 1, received 0"),
        ({"count": -1}, "count must be a whole number, at least 1, received -1"),
        ({"kind": "x"}, r"kind of a version policy must be one of \['latest', .*received 'x'"),
        ({"kind": "specific"}, "names no version: give versions"),
    ],
)
def test_a_policy_that_chooses_nothing_sensible_is_refused(policy, words):
    with pytest.raises(ConfigError, match=words):
        VersionPolicy(**policy)


def test_a_models_config_gives_policies_and_labels(conformance_config):
    (settings,) = read_models_config(conformance_config).values()
    assert settings.policy.kind == "all"
    assert settings.labels == {"stable": 1, "canary": 2}
    with pytest.raises(ConfigError, match="no models config"):
        read_models_config(conformance_config / "nowhere")
