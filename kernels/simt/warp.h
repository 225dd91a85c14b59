// Shuffles, votes and reductions of a warp.
#pragma once

#include "core.h"

#include <cstring>

namespace simt {

template <class T> struct Shuffle {
    T value;
    unsigned source;
    T result;
};

// The value of lane `source`; of a lane that takes no part, garbage (0xff).
template <class T> T shuffle(unsigned mask, T value, unsigned source, const char* name) {
    Shuffle<T> mine{value, source, value};
    collective(
        mask,
        [](void* const* arguments, unsigned present) {
            for (unsigned lane = 0; lane < 32; ++lane) {
                if (!(present >> lane & 1))
                    continue;
                auto* to = static_cast<Shuffle<T>*>(arguments[lane]);
                if (present >> to->source & 1)
                    to->result = static_cast<Shuffle<T>*>(arguments[to->source])->value;
                else
                    memset(static_cast<void*>(&to->result), 0xff, sizeof(T));
            }
        },
        &mine, name);
    return mine.result;
}

template <class T> struct Reduction {
    T value;
    T result;
};

template <class T, class Combine> T reduce(unsigned mask, T value, Combine, const char* name) {
    Reduction<T> mine{value, value};
    collective(
        mask,
        [](void* const* arguments, unsigned present) {
            const unsigned first = __builtin_ctz(present);
            T total = static_cast<Reduction<T>*>(arguments[first])->value;
            for (unsigned lane = first + 1; lane < 32; ++lane)
                if (present >> lane & 1)
                    total = Combine::of(total, static_cast<Reduction<T>*>(arguments[lane])->value);
            for (unsigned lane = first; lane < 32; ++lane)
                if (present >> lane & 1)
                    static_cast<Reduction<T>*>(arguments[lane])->result = total;
        },
        &mine, name);
    return mine.result;
}

struct Add {
    template <class T> static T of(T a, T b) { return a + b; }
};
struct Max {
    template <class T> static T of(T a, T b) { return a > b ? a : b; }
};
struct Min {
    template <class T> static T of(T a, T b) { return a < b ? a : b; }
};
struct And {
    template <class T> static T of(T a, T b) { return a & b; }
};
struct Or {
    template <class T> static T of(T a, T b) { return a | b; }
};

} // namespace simt

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    simt::collective(mask, [](void* const*, unsigned) {}, nullptr, "__syncwarp");
}

inline unsigned __activemask() { return simt::active_mask(); }

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned lane = simt::here.fiber->lane;
    return simt::shuffle(mask, value, (lane & ~(width - 1u)) | (source & (width - 1u)), "__shfl_sync");
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    const unsigned lane = simt::here.fiber->lane, source = lane ^ lanes;
    const bool inside = (source & ~(width - 1u)) <= (lane & ~(width - 1u));
    return simt::shuffle(mask, value, inside ? source : lane, "__shfl_xor_sync");
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const unsigned lane = simt::here.fiber->lane;
    const bool inside = (lane & (width - 1u)) + distance < static_cast<unsigned>(width);
    return simt::shuffle(mask, value, inside ? lane + distance : lane, "__shfl_down_sync");
}

template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const unsigned lane = simt::here.fiber->lane;
    const bool inside = (lane & (width - 1u)) >= distance;
    return simt::shuffle(mask, value, inside ? lane - distance : lane, "__shfl_up_sync");
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned bit = predicate ? 1u << simt::here.fiber->lane : 0u;
    return simt::reduce(mask, bit, simt::Or{}, "__ballot_sync");
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    return simt::reduce(mask, value, simt::Add{}, "__reduce_add_sync");
}
inline int __reduce_add_sync(unsigned mask, int value) {
    return simt::reduce(mask, value, simt::Add{}, "__reduce_add_sync");
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    return simt::reduce(mask, value, simt::Max{}, "__reduce_max_sync");
}
inline int __reduce_max_sync(unsigned mask, int value) {
    return simt::reduce(mask, value, simt::Max{}, "__reduce_max_sync");
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
    return simt::reduce(mask, value, simt::Min{}, "__reduce_min_sync");
}
inline int __reduce_min_sync(unsigned mask, int value) {
    return simt::reduce(mask, value, simt::Min{}, "__reduce_min_sync");
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    return simt::reduce(mask, value, simt::Or{}, "__reduce_or_sync");
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
    return simt::reduce(mask, value, simt::And{}, "__reduce_and_sync");
}

namespace simt {

template <class T> struct Match {
    T value;
    unsigned same;
};

} // namespace simt

template <class T> unsigned __match_any_sync(unsigned mask, T value) {
    simt::Match<T> mine{value, 0};
    simt::collective(
        mask,
        [](void* const* arguments, unsigned present) {
            for (unsigned lane = 0; lane < 32; ++lane) {
                if (!(present >> lane & 1))
                    continue;
                auto* to = static_cast<simt::Match<T>*>(arguments[lane]);
                for (unsigned other = 0; other < 32; ++other)
                    if (present >> other & 1 && static_cast<simt::Match<T>*>(arguments[other])->value == to->value)
                        to->same |= 1u << other;
            }
        },
        &mine, "__match_any_sync");
    return mine.same;
}
