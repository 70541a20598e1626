"""Distances between sets of images by the features of a network, such as FID and KID."""
