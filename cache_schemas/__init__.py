"""What lies on disk between the stages: manifest, spectrograms, crops, features, run."""
