# `make` alone lists the verbs.  Everything lives in .venv; nothing of the system is changed.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_WAIT_POLICY := PASSIVE
export DVC_NO_ANALYTICS := 1
# Some containers tell Python to keep nothing that it compiled: a hundred processes would compile torch, for 3 s each.
export PYTHONDONTWRITEBYTECODE :=
PHOTOSOUND ?= ../shared/photosound
WILD ?= ../shared/wild
EFFICIENTAT := ../shared/weights/mn04_as_mAP_432.pt
FAULTS_MINUTES ?= 10
SIDE_BY_SIDE := pytest --numprocesses auto --dist loadfile
# What `make check` leaves to `make test`: files of more than five seconds of one core.  A new file is checked until it stands here.
LONG := adapt_stages archive backbones backbones_methods backbones_weights channels corruptions_files decode decoding decoding_workers demo dvc export faults labels_hidden \
	lanes listener listener_page mappers methods_state own_videos perturb query query_readme quiet readme report resume service settings shards sound sound_ffmpeg stream streams taggers_panns tag tanet tracks train waveform
# ruff, then pytest with these flags and mypy beside it; what mypy finds wrong follows pytest's summary, else that is the last line.
define checked
	ruff check .
	@said=$$(mktemp); mypy >$$said 2>&1 & types=$$!; $(SIDE_BY_SIDE) $(1); status=$$?; \
	wait $$types || { status=1; cat $$said; }; rm -f $$said; exit $$status
endef

.PHONY: help install demo test test-slow faults check bench photosound wild ablation orders clean
help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and f"Earshot needs Python 3.11, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[pipeline,backbones,export,dev]'
	@touch $@

install: $(READY)  ## make .venv with everything that constraints.txt pins

demo: $(READY)  ## run the whole pipeline on the generated demo set and print the result table
	@! git ls-files --error-unmatch dvc.lock >/dev/null 2>&1 || git update-index --skip-worktree dvc.lock  # hashes of this machine: not in git status
	dvc repro
	@cat cache/metrics/demo/report.md
	@echo
	@echo "Tables: cache/demo (query them with SQL), results: cache/metrics/demo, videos: data/videos/demo.  Next, after 'source .venv/bin/activate':"
	@echo "  python -m pipeline.query demo \"SELECT clip_id, label, top_label, round(mass, 2) AS mass FROM disagreements\""
	@echo "  dvc exp run -S adapt.args.max_iterations=3     # reruns adapt and report only"
	@echo "  dvc metrics show"

test: $(READY)  ## ruff, mypy and all tests but the slow ones, a process a core
	$(call checked,)

test-slow: $(READY)  ## the slow tests: whole pipelines, killed runs, servers
	$(SIDE_BY_SIDE) -m 'slow and not llm'

faults: $(READY)  ## ten minutes of random faults: kills, full disks, two at once, flipped bits, hostile names
	pytest tests/faults --numprocesses 0 -m slow -s --faults_minutes $(FAULTS_MINUTES)

check: $(READY)  ## ruff, mypy and the files of tests that take under a minute together
	$(call checked,$(LONG:%=--ignore-glob=*/test_%.py))

bench: $(READY)  ## run the benchmarks of tests/bench (make bench ROOM=adapt for one room)
	python -m tests.bench $(ROOM)

photosound: $(READY)  ## the acceptance run on real photos and recordings (needs PHOTOSOUND=folder)
	@test -f $(PHOTOSOUND)/make_photosound.py || { echo "$(PHOTOSOUND)/make_photosound.py is not there: set PHOTOSOUND to its folder"; exit 1; }
	@test -f data/videos/photosound/manifest.csv || python $(PHOTOSOUND)/make_photosound.py --out data/videos/photosound --train 150 --val 20 --test 20 --jobs 2
	dvc repro data/settings/photosound/dvc.yaml
	@cat cache/metrics/photosound/report.md

wild: $(READY)  ## real clips filmed with their sound, on ImageNet's own head (needs WILD=folder)
	@test -f $(WILD)/clips.csv || { echo "$(WILD)/clips.csv is not there: set WILD to its folder"; exit 1; }
	@for name in wild wild_efficientat; do test -f data/videos/$$name/clips.csv || { mkdir -p data/videos/$$name && \
		cp -r $(WILD)/videos data/videos/$$name && cp $(WILD)/clips.csv data/videos/$$name; } || exit 1; done
	dvc repro data/settings/wild/dvc.yaml
	@cat cache/metrics/wild/report.md
	@if test -f $(EFFICIENTAT); then dvc repro data/settings/wild_efficientat/dvc.yaml && cat cache/metrics/wild_efficientat/report.md; \
	else echo "efficientat is skipped: its weights are not at $(EFFICIENTAT)"; fi

ablation: $(READY)  ## what each part of audio is worth (after make photosound)
	dvc repro data/settings/photosound/ablation/dvc.yaml
	@cat cache/metrics/photosound/ablation.md

orders: $(READY)  ## every method on three orders of the stream (after make photosound)
	dvc repro data/settings/photosound/orders/dvc.yaml
	@cat cache/metrics/photosound/orders.md

clean:  ## remove .venv, caches of tools, and everything that the pipeline made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .dvc/cache .dvc/tmp data/videos/demo cache/demo
