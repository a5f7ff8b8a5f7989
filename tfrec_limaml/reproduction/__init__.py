"""The paper's experiments by command: what is trained, how it is scored, what the paper found."""
