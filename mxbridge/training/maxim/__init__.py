"""Training of imputation models: images, split, scaling, patches, recipe, findings."""
