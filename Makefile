# Each target makes its own virtual environment when there is none. CPU build of torch: see README, "GPU".
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test slow docs browser bench lint clean

demo: $(VENV)/ready
	$(BIN)/ppvae demo --output demo --json demo.json

test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --dist loadfile

slow: $(VENV)/ready
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/ppvae bench --json bench.json

docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python docs/catalogue.py
	mkdir -p docs/_made
	$(BIN)/python docs/recorded.py docs/_made/pair.pt
	$(BIN)/ppvae explore docs/_made/pair.pt --export docs/_made/recorded.html --force
	export PATH="$(CURDIR)/$(BIN):$$PATH" && sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo 'the site: docs/_build/html/index.html'

browser: docs
	$(BIN)/python -m pip install --quiet --editable '.[browser,test]'
	PPVAE_SITE=docs/_build/html $(BIN)/python -m pytest -q -m browser

clean:
	rm -rf $(VENV) docs/_build docs/_made docs/catalogue docs/notebooks

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet 'torch>=2.4,<2.14'
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
