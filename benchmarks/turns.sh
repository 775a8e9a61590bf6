#!/usr/bin/env bash
# Train dense models of an experiment in turns on one core, so that each has made progress whenever
# this is stopped. Ends when all are trained, or when a training fails.
#
#   benchmarks/turns.sh two-speakers-dense ConvTasNet-medium=20 DPRNNTasNet-medium=12
#
# The figure is the minutes of a turn. PYTHON names the interpreter.
set -u
experiment=$1
shift
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
# Keep freed memory: otherwise recurrent networks spend a third of the time on getting it again.
export MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=17179869184
export MALLOC_TOP_PAD_=268435456
trap 'kill -TERM "${child:-0}"; wait; exit 130' INT TERM
unfinished=1
while ((unfinished)); do
    unfinished=0
    for turn in "$@"; do
        model=${turn%=*}
        echo "$(date -u +%FT%TZ) $model"
        timeout --kill-after=5m "${turn#*=}m" nice -n 19 \
            "${PYTHON:-.venv/bin/python}" -m benchmarks run "$experiment" --model "$model" &
        child=$!
        wait "$child"
        case $? in
            0) ;;
            124) unfinished=1 ;; # its turn is over; its state is written
            *) exit 1 ;;
        esac
    done
    echo "$(date -u +%FT%TZ) CPU time of this script and of its trainings:"
    times
    "${PYTHON:-.venv/bin/python}" -m benchmarks status "$experiment"
done
