# Set-up, training and tests from a bare Python 3.11 to 3.14.

PYTHON ?= python3
CONFIG ?= configs/digits_tada.py
VENV := .venv
BIN := $(VENV)/bin
# What JAX is installed for: cpu, cuda or tpu; what is found, if not named.
ifndef DEVICE
DEVICE := $(shell \
	if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then echo cuda; \
	elif [ -n "$$TPU_NAME" ] || ls /dev/accel[0-9]* >/dev/null 2>&1; then echo tpu; \
	else echo cpu; fi)
endif
ifeq ($(filter cpu cuda tpu,$(DEVICE)),)
$(error DEVICE=$(DEVICE) is unknown: cpu, cuda or tpu)
endif
# uv is several times as fast as pip, but knows no pip.conf: where it finds nothing, pip installs.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --system-certs --require-hashes
LOCK := requirements$(if $(filter cpu,$(DEVICE)),,-$(DEVICE)).lock
PINS := requirements-dev.txt

.PHONY: train test test-newest test-tpu wheels lint lock clean

train: $(VENV)/installed-$(DEVICE)
	$(BIN)/python main.py --config=$(CONFIG) $(ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/installed-$(DEVICE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

$(VENV)/installed-$(DEVICE): $(LOCK)
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("error: Python 3.11 to 3.14 is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	@echo "installing for DEVICE=$(DEVICE) (make DEVICE=cpu, cuda or tpu chooses)"
	$(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' $(LOCK) > $(VENV)/uv.lock
	@sed '/^uv==/,/[^\\]$$/d' $(LOCK) > $(VENV)/rest.lock
	$(PIP) -r $(VENV)/uv.lock && $(UV) -r $(LOCK) || { echo "uv did not get through: pip installs"; $(PIP) -r $(VENV)/rest.lock; }
	@touch $@

# With the newest version of everything, apart from the pins; says which those are.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	sed 's/==[^ ]*//' requirements.txt > .venv-newest/requirements.txt
	sed 's/==[^ ]*//' $(PINS) > .venv-newest/$(PINS)
	.venv-newest/bin/pip install --quiet --disable-pip-version-check -r .venv-newest/$(PINS)
	@echo "newer than the pins:"
	@.venv-newest/bin/pip freeze | tr 'A-Z_' 'a-z-' | sort > .venv-newest/versions
	@grep -hE '^[A-Za-z]' requirements.txt $(PINS) | sed 's/ .*//' | tr 'A-Z_' 'a-z-' | sort | comm -13 - .venv-newest/versions | grep -E "^($$(sed -nE 's/^([A-Za-z-]+)==.*/\1/p' requirements.txt $(PINS) | tr 'A-Z_' 'a-z-' | paste -sd'|'))==" || echo none
	.venv-newest/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

# What a training step would cost on a TPU, by its compiler; needs no TPU, and some minutes.
test-tpu:
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-tpu.lock
	.venv-tpu/bin/python -m benchmarks.compiled --config=benchmarks/unet32.py --config.model.dtype=bfloat16 --steps=1 --against=benchmarks/compiled.json --check $(ARGS)

# What a machine with a GPU may lack, for benchmarks/accelerator.sh.
WHEELS := clu ml-collections tensorboardX wrapt jinja2 markupsafe filelock safetensors threadpoolctl absl-py typing-extensions six pyyaml protobuf packaging
wheels:
	rm -rf wheels
	for name in $(WHEELS); do grep -hiE "^$$name==" requirements.lock | sed 's/[ ;].*//'; done > wheels.txt
	$(PYTHON) -m pip download --quiet --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --dest wheels -r wheels.txt
	rm wheels.txt

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
lock:
	$(COMPILE) requirements-dev.txt --output-file requirements.lock
	$(COMPILE) requirements-dev.txt requirements-cuda.txt --output-file requirements-cuda.lock
	$(COMPILE) requirements-dev.txt requirements-tpu.txt --output-file requirements-tpu.lock

clean:
	rm -rf $(VENV) .venv-newest .venv-tpu wheels .cache .pytest_cache .ruff_cache
