"""Takes a seed, yields synthetic mountain scenes as GeoTIFFs: bands, GLCM and labels, learnable."""
