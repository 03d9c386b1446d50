"""Many runs over one cache: sweeps, the oracle and its certificates, baselines."""
