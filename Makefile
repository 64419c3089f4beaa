# For users: make demo, make test. For developers: make check, make bench, and others; see CONTRIBUTING.md.
# Everything is installed into .venv. You need only Python 3.11 or later, its venv module, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A full run leaves some CPU to PostgreSQL, which the tests keep busy. A quick run is short, so it may take all of it.
# Most tests mostly wait, so that takes three workers for each of two processors.
# A worker that has finished takes tests from the others (worksteal); otherwise the last one runs alone for minutes.
WORKERS ?= $(if $(THOROUGH)$(filter true,$(CI)),3,6)
# Let pytest cache its rewritten assertions. Rewriting them takes five seconds.
unexport PYTHONDONTWRITEBYTECODE
RUNS ?= 100
SECONDS ?= 60
PG ?= 16

.PHONY: demo test test-pg19 test-images tools test-tools requirements check format bench bench-peers bench-images folder dist test-pythons audit publish soak fuzz screenshots recording site publish-site clean

demo: $(VENV)/demo.done  ## three replicas race on an embedded PostgreSQL
	$(BIN)/python -m demo

test: $(VENV)/assertions.done  ## test against real servers; THOROUGH=1 or CI=true for all tests, TESTS=tests/test_lock.py for one file
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not text" --ignore=tests/images --ignore=tests/tools $(if $(THOROUGH),--thorough) $(TESTS)

test-pg19: $(VENV)/test.done  ## install PostgreSQL 19 with mmdebstrap, and test against it
	.ci/install-postgresql-19
	ENTRYPOINT_TEST_PG=19 $(MAKE) test

test-images: $(VENV)/test.done  ## test the container images, with our own engines; needs root, see CONTRIBUTING.md
	$(BIN)/python -m pytest $(or $(TESTS),tests/images)

tools: $(VENV)/test.done  ## install the migration tools for test-tools into .tools; QUICK=1: only those that take seconds
	$(BIN)/python -m tests.tools.install $(if $(QUICK),--quick)

test-tools: tools  ## test the move from other migration tools, with the real tools; see CONTRIBUTING.md
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(or $(TESTS),tests/tools)

check: $(VENV)/check.done $(VENV)/test.done  ## check types, lint and format, and run the tests that only read texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy compose/shop/version1
	$(BIN)/mypy compose/shop/version2
	$(BIN)/mypy compose/shop/version3
	$(BIN)/python -m pytest -q -n $(WORKERS) -m text --ignore=tests/images --ignore=tests/tools

format: $(VENV)/check.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/test.done  ## measure and print; see docs/benchmarks.md
	$(BIN)/python -m benchmarks $(BENCH)

bench-peers: $(VENV)/test.done  ## install the tools for comparison into benchmarks/.peers
	$(BIN)/python -m benchmarks.peers install

bench-images: $(VENV)/test.done  ## measure the container images; needs what test-images needs
	$(BIN)/python -m tests.images.measure $(BENCH)

# The packer needs a non-editable installation, so it has a separate environment.
folder:  ## build the self-contained folder with this machine's Python, into build/folder; see docs/folder.md
	$(PYTHON) -m venv --clear build/packer
	build/packer/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements/folder.txt
	rm -rf build/folder build/lib
	build/packer/bin/python -m pip install --quiet --disable-pip-version-check .
	find build/packer -name 'pgparse*.so' -exec strip --strip-unneeded {} +
	build/packer/bin/python -I packaging/folder.py --quiet build_exe --build-exe build/folder

# A separate environment with pinned packages, so that a release does not depend on today's newest versions.
RELEASE := build/release/bin/python -m release

dist: build/release/done  ## build and check the release files, into dist/; TAG=v1.2.3: fail unless that is the version
	$(if $(TAG),$(RELEASE) tag $(TAG))
	$(RELEASE) dist

test-pythons: build/release/done  ## run part of the tests with each installed Python from 3.11 to 3.14; TESTS=… for another part
	$(RELEASE) pythons $(TESTS)

audit: build/release/done  ## check the workflows, and the pinned packages for known vulnerabilities; STRICT=1: fail if that is not possible
	build/release/bin/zizmor --offline --quiet --min-severity medium .github
	$(RELEASE) audit $(if $(STRICT),--strict)

publish: build/release/done  ## sign and upload the files in dist/; only for CI, on a tag
	build/release/bin/python -m pypi_attestations sign dist/*.whl dist/*.tar.gz
	build/release/bin/python -m sigstore sign dist/SHA256SUMS
	build/release/bin/python -m twine upload --non-interactive --attestations dist/*.whl dist/*.tar.gz dist/*.attestation

soak: $(VENV)/test.done  ## inject random faults at random moments: make soak RUNS=1000 SOAK="--pg 18 --pooler"
	$(BIN)/python -m tests.faults.soak --runs $(RUNS) --workers $(WORKERS) $(SOAK)

fuzz: $(VENV)/test.done  ## compare how we and a server read random SQL: make fuzz SECONDS=900 SEED=7 PG=18
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed "$(SEED)" --pg $(PG)

requirements: $(VENV)/requirements.done  ## update the images' pinned requirements
	$(BIN)/python requirements/renew.py

screenshots: $(VENV)/test.done  ## take the screenshots in docs/admin-page.md, with Chromium, and the pictures of every command
	$(BIN)/python -m tests.browser.screenshots
	PYTHONPATH=tests $(BIN)/python -m tests.kit.pictures

recording: $(VENV)/demo.done  ## record docs/images/demo.svg, for the README
	$(BIN)/python -m demo.recording

# A separate environment, which the program and its tests do not need.
site: build/site-env/done  ## build the documentation as a site, into build/site; a broken link or anchor is an error
	build/site-env/bin/python -m release.site build

publish-site: site  ## push build/site to a branch that a forge serves as pages: REMOTE=origin BRANCH=gh-pages
	build/site-env/bin/python -m release.site publish --remote $(or $(REMOTE),origin) --branch $(or $(BRANCH),gh-pages)

clean:
	rm -rf $(VENV) build dist *.egg-info

build/release/done: requirements/release.txt requirements/build.txt
	$(PYTHON) -m venv --clear build/release
	build/release/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary=:all: --requirement requirements/release.txt --requirement requirements/build.txt
	@touch $@

build/site-env/done: requirements/site.txt
	$(PYTHON) -m venv --clear build/site-env
	build/site-env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary=:all: --requirement requirements/site.txt
	@touch $@

$(VENV)/python.done:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Otherwise each worker of the first run would rewrite all assertions, because each one collects all tests.
$(VENV)/assertions.done: $(VENV)/test.done
	-@ls tests/test_*.py tests/*/test_*.py | xargs -P 2 -n 90 $(BIN)/python -m pytest --collect-only -qq >/dev/null
	@touch $@

$(VENV)/%.done: $(VENV)/python.done pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
