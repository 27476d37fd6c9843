"""Studies: search spaces, samplers, stopping rules, the driver of trials. The only importer of Ray and Optuna."""
