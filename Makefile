# What a person or CI calls. The work is done by small scripts in scripts/.

.DEFAULT_GOAL := help
.PHONY: help demo test check crds bench soak

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole story on real servers: a PostgreSQL volume, scheduled backups, retention, restore
	@scripts/demo

test: ## set up this machine, then check and test everything that is promised
	@scripts/test

check: ## formatting, lints, licences, generated CRDs, documentation
	@scripts/setup check
	@scripts/check

crds: ## write the custom resource definitions to crds/ again
	@scripts/crds write

bench: ## measure how long a snapshot makes I/O wait, beside a plain clone
	@scripts/setup test
	@scripts/bench

soak: ## the long randomised rounds; seeds are printed, ROUNDS=n sets how many
	@scripts/setup test
	@scripts/soak
