// The architectures minke knows; one line each, defined in the file of the family.
#ifndef MK_MODEL_ARCH_LIST_H
#define MK_MODEL_ARCH_LIST_H

#define MK_ARCH_LIST(X)                                                                            \
    X(llama)                                                                                       \
    X(qwen2)                                                                                       \
    X(deepseek)

#endif
