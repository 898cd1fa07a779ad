// What tells models apart without reading them whole: for what is kept on disk between runs.
#ifndef MK_MODEL_FINGERPRINT_H
#define MK_MODEL_FINGERPRINT_H

#include "model/model.h"

// Hash of the version of the packed layouts, the family, the name, type and shape of every tensor,
// and bytes at two places of each (of every k-th if there are thousands).  The same wherever the
// files lie.
uint64_t mk_model_fingerprint(const mk_model *m);

// Hash of everything that decides what a loaded model computes, as far as it can be known without
// reading all weights: the fingerprint, sizes and times of the files, the configuration, how it was
// loaded, and the values of adapters that are attached.  A model that a trainer changes in memory
// has the key of its files.
uint64_t mk_model_state_key(const mk_model *m);

#endif
