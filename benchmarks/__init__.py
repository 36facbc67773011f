"""One file per figure; `python -m benchmarks NAME` measures it and writes results/NAME.json."""
