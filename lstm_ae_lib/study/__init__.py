"""Running and recording: checkpoints, runs, sweeps, releases, reports, benchmarks."""
