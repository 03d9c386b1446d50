"""What is done over a finished cache: search, retrain, evaluate. Knows neither media nor backbones."""
