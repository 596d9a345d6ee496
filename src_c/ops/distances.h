/* SPDX-License-Identifier: MIT */
/* Which of 2 * span relative embeddings a distance has; the rule is fa_distance_columns' in fastattn.h. */
#ifndef FA_OPS_DISTANCES_H
#define FA_OPS_DISTANCES_H

#include "../fastattn.h"

#define FA_MOST_REACH ((int64_t)1 << 30) /* the largest distance there may be: a table of 8 GiB */

/* FA_ERR_VALUE for sizes that no model has. The others take sizes that passed. */
fa_status fa_check_distances(int64_t span, int64_t max_distance);

/* Both compute in double precision: in the default floating-point environment. */
int32_t fa_distance_column(int64_t distance, int64_t span, int64_t max_distance);
void fa_fill_columns(int32_t *columns, int64_t reach, int64_t span, int64_t max_distance); /* [2 * reach + 1] */

#endif
