"""The road of classification, one module per stage."""
