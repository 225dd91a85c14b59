// Column-major matrices of f32, f16 and bf16 for the stand-in of cuBLASLt.

#pragma once

#include <cstdint>
#include <cstring>

// Numbers of cudaDataType_t.
enum ElementType { R_32F = 0, R_16F = 2, R_16BF = 14 };

struct Matrix {
    int type;
    uint64_t rows, columns;
    int64_t ld;

    bool is_valid() const {
        bool known = type == R_32F || type == R_16F || type == R_16BF;
        return known && rows > 0 && columns > 0 && ld >= static_cast<int64_t>(rows);
    }

    uint64_t element_bytes() const { return type == R_32F ? 4 : 2; }

    // From the first element to the end of the last.
    uint64_t bytes() const { return ((columns - 1) * ld + rows) * element_bytes(); }

    float load(const void* data, uint64_t row, uint64_t column) const {
        const char* place = static_cast<const char*>(data) + (column * ld + row) * element_bytes();
        if (type == R_32F) return read<float>(place);
        if (type == R_16F) return read<_Float16>(place);
        uint32_t bits = static_cast<uint32_t>(read<uint16_t>(place)) << 16;
        return read<float>(&bits);
    }

    void store(void* data, uint64_t row, uint64_t column, float value) const {
        char* place = static_cast<char*>(data) + (column * ld + row) * element_bytes();
        if (type == R_32F) {
            memcpy(place, &value, sizeof value);
        } else if (type == R_16F) {
            _Float16 half = value;
            memcpy(place, &half, sizeof half);
        } else {
            uint16_t half = rounded_to_bf16(value);
            memcpy(place, &half, sizeof half);
        }
    }

  private:
    template <typename T>
    static T read(const void* place) {
        T value;
        memcpy(&value, place, sizeof value);
        return value;
    }

    // To the nearest, ties to even; a NaN stays one.
    static uint16_t rounded_to_bf16(float value) {
        uint32_t bits = read<uint32_t>(&value);
        if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
        return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};
