"""A page to touch: a fitted pair's latent plane, and its posterior as entries of a row are erased; `ppvae explore`."""
