/* SPDX-License-Identifier: MIT */
/*
 * fastattn-test [--quick] [--no-fork] [--isa NAME]... [FILTER]
 *
 * Runs every case whose name contains FILTER, on every instruction set of this machine or on those named (scalar, the
 * specification, always). One line a case on stdout, a hash of its output bytes and its name, the same on every machine;
 * failures on stderr. --no-fork leaves out what forks: qemu's user mode cannot.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "run.h"

static int usage(const char *program) {
    fprintf(stderr, "usage: %s [--quick] [--no-fork] [--isa NAME]... [FILTER]\n", program);
    return 2;
}

static int run_all(const options *o) {
    test_vmath(o);
    test_attention(o);
    test_attention_random(o);
    test_attention_positions(o);
    test_attention_integers(o);
    test_linear(o);
    test_linear_int8(o);
    test_linear_quant(o);
    test_linear_attention(o);
    test_short_conv(o);
    test_convert(o);
    test_blocks(o);
    test_rope(o);
    test_relative(o);
    test_disentangled(o);
    test_similarity(o);
    test_sample(o);
    test_rows(o);
    test_pooling(o);
    test_route(o);
    test_experts(o);
    test_program(o);
    test_program_memory(o);
    test_program_states(o);
    test_program_checks(o);
    test_program_runs(o);
    test_program_experts(o);
    test_status(o);
    test_threads(o);
    fprintf(stderr, "%d cases, %d failures; instruction sets:", run_cases(), check_failures());
    for (int i = 0; i < fa_isa_count(); i++)
        if (isa_selected(i)) fprintf(stderr, " %s", fa_isa_name(i));
    const char *where;
    const size_t deepest = check_deepest(&where);
    fprintf(stderr, "; OpenMP %d", fa_openmp_version());
    if (deepest) fprintf(stderr, "; %zu bytes of stack at most: %s", deepest, where);
    fprintf(stderr, "\n");
    return check_failures() != 0 || run_cases() == 0;
}

int main(int argc, char **argv) {
    options o = {0};
    const char *filter = NULL;
    unsigned named = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            o.quick = 1;
        } else if (strcmp(argv[i], "--no-fork") == 0) {
            o.no_fork = 1;
        } else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            int isa = 0;
            for (i++; isa < fa_isa_count() && strcmp(fa_isa_name(isa), argv[i]); isa++) {}
            if (!fa_isa_supported(isa)) {
                fprintf(stderr, "%s: %s is not supported here\n", argv[0], argv[i]);
                return 2;
            }
            named |= 1u << isa;
        } else if (argv[i][0] != '-' && !filter) {
            filter = argv[i];
        } else {
            return usage(argv[0]);
        }
    }
    run_configure(filter, named ? named | 1u : ~0u);
    if (fa_runtime_init()) {
        fprintf(stderr, "fa_runtime_init failed\n");
        return 1;
    }
    guard_explain_faults(case_where);
    return run_all(&o);
}
