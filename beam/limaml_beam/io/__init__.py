"""Files of any Beam filesystem: reading tables and TFRecord files, staged output, progress, runner
errors.
"""
