// Atomics of device memory: streams of different host threads may run kernels at once, so these are atomic here too.
#pragma once

#include <cstring>

namespace simt {

// `change` gives the new value from the old one; returns the old one.
template <class T, class Change> T read_modify_write(T* address, Change change) {
    T old, wanted;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
        wanted = change(old);
    } while (!__atomic_compare_exchange(address, &old, &wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return old;
}

// Keeps the argument out of the deduction of T: atomicAdd(unsigned*, 1) is CUDA too.
template <class T> struct Same {
    using Type = T;
};
template <class T> using Exactly = typename Same<T>::Type;

} // namespace simt

template <class T> T atomicAdd(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return T(old + value); });
}
template <class T> T atomicSub(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return T(old - value); });
}
template <class T> T atomicMax(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return old > value ? old : value; });
}
template <class T> T atomicMin(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return old < value ? old : value; });
}
template <class T> T atomicExch(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T) { return value; });
}
template <class T> T atomicOr(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return T(old | value); });
}
template <class T> T atomicAnd(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return T(old & value); });
}
template <class T> T atomicXor(T* address, simt::Exactly<T> value) {
    return simt::read_modify_write(address, [=](T old) { return T(old ^ value); });
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
    return simt::read_modify_write(address, [=](unsigned old) { return old >= last ? 0u : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned last) {
    return simt::read_modify_write(address, [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}
template <class T> T atomicCAS(T* address, simt::Exactly<T> expected, simt::Exactly<T> value) {
    __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
