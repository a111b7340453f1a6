# make demo: the whole path on real digits. make test: everything that can fail. Python 3.11+ and a package index.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test browser wasm lint wheel models clean

demo: $(READY)
	$(BIN)/python tools/demo.py

test: $(READY) lint
	$(BIN)/pytest -n auto

# needs Chromium (apt-get install chromium); leaves screenshots in build/screenshots
browser: $(READY)
	EDGELSTM_SCREENSHOTS=build/screenshots $(BIN)/pytest -m browser -rs -s

# the demo page's engine; needs clang and lld (apt-get install clang lld)
wasm: $(READY)
	$(BIN)/python tools/wasm.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: $(READY)
	PIP_CONSTRAINT=tools/constraints.txt $(BIN)/python -m build --wheel --outdir dist

models: $(READY)
	$(BIN)/python tools/build_models.py

clean:
	rm -rf .venv dist build runs/demo

$(READY): pyproject.toml tools/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint tools/constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint tools/constraints.txt --build-constraint tools/constraints.txt --editable '.[train,gpu,plot,score]' --group dev
	touch $(READY)
