"""The model without a test variant, fitted once per phenotype."""
