"""The paper's experiments: trained models, their scores, and the paper's results."""
