// The packed copy of a model on disk: made once on request, then mapped at every start instead of
// packing the weights again (docs/pack-cache.md, format/packfile.h).
//
// A packed copy belongs to the model files it was made from.  It is found by a fingerprint: hash of
// the layouts' version, the architecture, every tensor's name, type and shape, and bytes sampled
// from the tensors; so it is found as well when the files were moved.  It is used if sizes and
// times of the files and the layout of every single weight agree, else refused.  Threads: a model
// and its packed copy are immutable after loading.
//
//     MK_TRY(mk_model_open(path, &m, err));
//     st = mk_pack_cache_attach(m, dir, &why);       // MK_ENOTFOUND: there is none
//     MK_TRY(mk_model_load(m, pool, NULL, NULL, err));   // maps what was attached, else packs
#ifndef MK_MODEL_PACK_CACHE_H
#define MK_MODEL_PACK_CACHE_H

#include "format/packfile.h"
#include "model/model.h"

#define MK_PACK_CACHE_END ".mkpack"  // of the files' names

// Path of the packed copy of m in folder dir, whether it is there or not (mk_free).
char *mk_pack_cache_path(const mk_model *m, const char *dir);

// Opens the packed copy in folder dir, checks it against m (not loaded yet) and sets m->packed.
// Errors, with m as before: MK_ENOTFOUND (no such file), MK_ECORRUPT (a damaged copy, or the model
// files are not those it was made from), MK_EUNSUPPORTED (made by another version), MK_EIO,
// MK_ENOMEM.
mk_status mk_pack_cache_attach(mk_model *m, const char *dir, mk_err *err) MK_WARN_UNUSED;

// Packs all weights of m (not loaded, nothing attached) into the file mk_pack_cache_path names, in
// a folder that exists; one weight at a time is in memory.  An old file of that name is replaced.
// step (may be NULL): bytes written; its error ends the work, and nothing is left.
mk_status mk_pack_cache_make(mk_model *m, const char *dir, mk_pool *pool, mk_packfile_step step,
                             void *arg, mk_err *err) MK_WARN_UNUSED;

// MK_OK if the files named in `head` are as they were when it was made; MK_ENOTFOUND if one is
// gone, MK_ECORRUPT if one has changed (message: what).
mk_status mk_pack_cache_check_files(const mk_packfile_head *head, mk_err *err) MK_WARN_UNUSED;

// For mk_model_load: points every weight into m->packed.
void mk_pack_cache_map(mk_model *m);

#endif
