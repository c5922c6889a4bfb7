/* The arithmetic of encodings, for compiled.py, which checks every size and calls one of these for a whole chunk.

   plain.py does the same in numpy, and says what is done; docs/format.md says why. C11 without a library and without
   Python, so that one build serves every release of Python; plain, but for a part for AVX-512. Buffers of elements need
   no alignment. Nothing is read or written beyond the lengths that are handed in, whatever they and the bytes say; what
   does not fit gives FAILED. Buffers do not overlap.

   Elements are dealt with in LANES runs of neighbouring places at once: each has cursors of its own into the groups, so
   that an element need not wait for the one before it, which mostly is in the same group.
*/
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the format is little-endian: numpy does it on other machines"
#endif

#ifndef SOURCE
#define SOURCE 0
#endif

#define INTERFACE 2
#define FAILED (-1)
#define LANES 4
#define MOST_GROUPS 64
#define MOST_KEYS 2048
#define MOST_COUNT ((size_t)1 << 30)
#define BLOCK 1024
#define STRIP 128
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* Planes, of which those that hold nothing but zeros are NULL. */
typedef const uint8_t *const *planes_in;

/* Where each lane's elements of each group stand in the grouped order. */
typedef struct {
    uint32_t at[LANES][256];
} cursors;

static const uint8_t zeros[BLOCK];

EXPORT int64_t casstore_interface(void) { return INTERFACE; }

/* The CRC-32 of this file, by which tests tell whether they try what it says. */
EXPORT int64_t casstore_source(void) { return SOURCE; }

/* `sizes` holds each lane's elements of each group: [LANES][MOST_GROUPS]. */
static int set_cursors(cursors *found, const uint32_t *sizes, size_t count) {
    uint64_t start = 0;
    memset(found, 0xff, sizeof *found);
    for (int group = 0; group < MOST_GROUPS; group++)
        for (int lane = 0; lane < LANES; lane++) {
            found->at[lane][group] = (uint32_t)start;
            start += sizes[lane * MOST_GROUPS + group];
        }
    return start == count ? 0 : FAILED;
}

INLINE size_t popcount(uint64_t bits) { return (size_t)__builtin_popcountll(bits); }

/* Bits [64 * word, 64 * word + 64) of a map, without those from `size` on. */
INLINE uint64_t map_word(const uint8_t *map, size_t size, size_t word) {
    size_t left = size - 64 * word;
    uint64_t bits = 0;
    if (left >= 64) {
        memcpy(&bits, map + 8 * word, 8);
        return bits;
    }
    for (size_t byte = 0; byte < (left + 7) / 8; byte++)
        bits |= (uint64_t)map[8 * word + byte] << (8 * byte);
    return bits & (((uint64_t)1 << left) - 1);
}

/* Eight bytes, each 0 or 1, as eight bits, the first one the lowest. */
INLINE uint8_t gather_bits(const uint8_t *each) {
    uint64_t eight;
    memcpy(&eight, each, 8);
    return (uint8_t)(eight * 0x0102040810204080u >> 56);
}

INLINE size_t count_bits(const uint8_t *map, size_t size) {
    size_t set = 0;
    for (size_t word = 0; 64 * word < size; word++)
        set += popcount(map_word(map, size, word));
    return set;
}

EXPORT int64_t casstore_is_zeros(const uint8_t *bytes, size_t size) {
    size_t start = 0;
    for (; size - start >= BLOCK; start += BLOCK) {
        uint8_t all = 0;
        for (size_t i = 0; i < BLOCK; i++)
            all |= bytes[start + i];
        if (all)
            return 0;
    }
    for (; start < size; start++)
        if (bytes[start])
            return 0;
    return 1;
}

/* How often each byte is among those at 0, `every`, 2 * `every`, ... */
EXPORT int64_t casstore_byte_counts(const uint8_t *bytes, size_t size, size_t every, uint32_t *counts) {
    if (every == 0 || size > MOST_COUNT)
        return FAILED;
    memset(counts, 0, 256 * sizeof *counts);
    for (size_t i = 0; i < size; i += every)
        counts[bytes[i]]++;
    return 0;
}

/* Have what comes next in a lane fetched from memory: the processor follows few runs at a time by itself. */
INLINE void fetch(const uint8_t *bytes, size_t from, size_t size, size_t limit) {
    for (size_t at = from; at < from + size && at < limit; at += 64)
        __builtin_prefetch(bytes + at);
}

#define FOR_WIDTH(T, W)                                                                                                \
    INLINE T load_##W(const uint8_t *elements, size_t i) {                                                             \
        T element;                                                                                                     \
        memcpy(&element, elements + i * W, W);                                                                         \
        return element;                                                                                                \
    }                                                                                                                  \
                                                                                                                       \
    INLINE void store_##W(uint8_t *elements, size_t i, T element) { memcpy(elements + i * W, &element, W); }           \
                                                                                                                       \
    static void key_counts_##W(const uint8_t *raw, size_t count, int shift, unsigned mask, size_t every,               \
                               uint32_t *counts) {                                                                     \
        for (size_t i = 0; i < count; i += every)                                                                      \
            counts[(load_##W(raw, i) >> shift) & mask]++;                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void group_##W(const uint8_t *raw, size_t count, int shift, unsigned mask, const uint8_t *group_of,         \
                          uint8_t *numbers, uint32_t *sizes) {                                                         \
        size_t run = count / LANES;                                                                                    \
        for (size_t i = 0; i < run; i++)                                                                               \
            for (size_t lane = 0; lane < LANES; lane++) {                                                              \
                uint8_t group = group_of[(load_##W(raw, lane * run + i) >> shift) & mask];                             \
                numbers[lane * run + i] = group;                                                                       \
                sizes[lane * MOST_GROUPS + group]++;                                                                   \
            }                                                                                                          \
        for (size_t i = LANES * run; i < count; i++) {                                                                 \
            numbers[i] = group_of[(load_##W(raw, i) >> shift) & mask];                                                 \
            sizes[(LANES - 1) * MOST_GROUPS + numbers[i]]++;                                                           \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    INLINE T fold_##W(T difference) {                                                                                  \
        return (T)((T)(difference << 1) ^ (T)(0 - (difference >> (8 * W - 1))));                                       \
    }                                                                                                                  \
    INLINE T unfold_##W(T folded) { return (T)((folded >> 1) ^ (T)(0 - (folded & 1))); }                               \
                                                                                                                       \
    /* Folded differences of neighbouring elements, in their places. */                                                \
    INLINE void differ_##W(const uint8_t *raw, const uint8_t *base, size_t place, size_t count, uint8_t *folded) {     \
        for (size_t i = 0; i < count; i++)                                                                             \
            store_##W(folded, i, fold_##W((T)(load_##W(raw, place + i) - load_##W(base, place + i))));                 \
    }                                                                                                                  \
                                                                                                                       \
    /* Neighbouring elements of the base plus their differences. */                                                    \
    INLINE void sum_##W(const uint8_t *base, const uint8_t *differences, size_t place, size_t count, uint8_t *raw) {   \
        for (size_t i = 0; i < count; i++)                                                                             \
            store_##W(raw, place + i, (T)(load_##W(base, place + i) + load_##W(differences, i)));                      \
    }                                                                                                                  \
                                                                                                                       \
    /* Folded differences in the grouped order. */                                                                     \
    static int arrange_##W(const uint8_t *raw, const uint8_t *base, const uint8_t *numbers, size_t count,              \
                           cursors *to, uint8_t *arranged) {                                                           \
        size_t run = count / LANES;                                                                                    \
        uint8_t folded[LANES][STRIP * W];                                                                              \
        if (numbers == NULL) {                                                                                         \
            differ_##W(raw, base, 0, count, arranged);                                                                 \
            return 0;                                                                                                  \
        }                                                                                                              \
        for (size_t start = 0; start < run; start += STRIP) {                                                          \
            size_t size = run - start < STRIP ? run - start : STRIP;                                                   \
            for (size_t lane = 0; lane < LANES; lane++) {                                                              \
                size_t next = lane * run + start + STRIP;                                                              \
                differ_##W(raw, base, lane * run + start, size, folded[lane]);                                         \
                fetch(raw, next * W, STRIP * W, count * W);                                                            \
                fetch(base, next * W, STRIP * W, count * W);                                                           \
                fetch(numbers, next, STRIP, count);                                                                    \
            }                                                                                                          \
            for (size_t i = 0; i < size; i++)                                                                          \
                for (size_t lane = 0; lane < LANES; lane++) {                                                          \
                    size_t at = to->at[lane][numbers[lane * run + start + i]]++;                                       \
                    if (at >= count)                                                                                   \
                        return FAILED;                                                                                 \
                    store_##W(arranged, at, load_##W(folded[lane], i));                                                \
                }                                                                                                      \
        }                                                                                                              \
        for (size_t i = LANES * run; i < count; i++) {                                                                 \
            size_t at = to->at[LANES - 1][numbers[i]]++;                                                               \
            if (at >= count)                                                                                           \
                return FAILED;                                                                                         \
            differ_##W(raw + i * W, base + i * W, 0, 1, arranged + at * W);                                            \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    /* The inverse: each element of the base plus its difference. */                                                   \
    static int put_back_##W(const uint8_t *total, const uint8_t *base, const uint8_t *numbers, size_t count,           \
                            cursors *from, uint8_t *raw) {                                                             \
        size_t run = count / LANES;                                                                                    \
        uint8_t differences[LANES][STRIP * W];                                                                         \
        if (numbers == NULL) {                                                                                         \
            sum_##W(base, total, 0, count, raw);                                                                       \
            return 0;                                                                                                  \
        }                                                                                                              \
        for (size_t start = 0; start < run; start += STRIP) {                                                          \
            size_t size = run - start < STRIP ? run - start : STRIP;                                                   \
            for (size_t lane = 0; lane < LANES; lane++) {                                                              \
                fetch(base, (lane * run + start) * W, STRIP * W, count * W);                                           \
                fetch(numbers, lane * run + start + STRIP, STRIP, count);                                              \
            }                                                                                                          \
            for (size_t i = 0; i < size; i++)                                                                          \
                for (size_t lane = 0; lane < LANES; lane++) {                                                          \
                    size_t at = from->at[lane][numbers[lane * run + start + i]]++;                                     \
                    if (at >= count)                                                                                   \
                        return FAILED;                                                                                 \
                    store_##W(differences[lane], i, load_##W(total, at));                                              \
                }                                                                                                      \
            for (size_t lane = 0; lane < LANES; lane++)                                                                \
                sum_##W(base, differences[lane], lane * run + start, size, raw);                                       \
        }                                                                                                              \
        for (size_t i = LANES * run; i < count; i++) {                                                                 \
            size_t at = from->at[LANES - 1][numbers[i]]++;                                                             \
            if (at >= count)                                                                                           \
                return FAILED;                                                                                         \
            sum_##W(base + i * W, total + at * W, 0, 1, raw + i * W);                                                  \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    static size_t count_set_##W(const uint8_t *elements, size_t start, size_t end) {                                   \
        size_t set = 0;                                                                                                \
        for (size_t i = start; i < end; i++)                                                                           \
            set += load_##W(elements, i) != 0;                                                                         \
        return set;                                                                                                    \
    }                                                                                                                  \
                                                                                                                       \
    /* To each of W planes, `stride` bytes apart, from `at` on, the bytes of `count` elements. */                      \
    static void split_##W(const uint8_t *elements, size_t count, uint8_t *planes, size_t stride, size_t at) {          \
        for (size_t plane = 0; plane < W; plane++) {                                                                   \
            uint8_t *to = planes + plane * stride + at;                                                                \
            for (size_t i = 0; i < count; i++)                                                                         \
                to[i] = (uint8_t)(load_##W(elements, i) >> (8 * plane));                                               \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* From the first `given` planes, whose bytes are those of as many elements. */                                    \
    INLINE void join_given_##W(planes_in planes, size_t count, int given, uint8_t *elements) {                         \
        for (size_t i = 0; i < count; i++) {                                                                           \
            T element = 0;                                                                                             \
            for (int plane = 0; plane < given; plane++)                                                                \
                element |= (T)((T)planes[plane][i] << (8 * plane));                                                    \
            store_##W(elements, i, element);                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* At most BLOCK elements, which stand from `at` on in the planes. */                                              \
    INLINE void join_##W(planes_in planes, size_t at, size_t count, uint8_t *elements) {                               \
        const uint8_t *from[W];                                                                                        \
        int given = 0;                                                                                                 \
        for (int plane = 0; plane < W; plane++) {                                                                      \
            from[plane] = planes[plane] == NULL ? zeros : planes[plane] + at;                                          \
            if (planes[plane] != NULL)                                                                                 \
                given = plane + 1;                                                                                     \
        }                                                                                                              \
        if (given <= 1)                                                                                                \
            join_given_##W(from, count, 1, elements);                                                                  \
        else if (given == 2)                                                                                           \
            join_given_##W(from, count, W < 2 ? W : 2, elements);                                                      \
        else                                                                                                           \
            join_given_##W(from, count, W, elements);                                                                  \
    }                                                                                                                  \
                                                                                                                       \
    INLINE void join_all_##W(planes_in planes, size_t count, uint8_t *elements) {                                      \
        for (size_t at = 0; at < count; at += BLOCK)                                                                   \
            join_##W(planes, at, count - at < BLOCK ? count - at : BLOCK, elements + at * W);                          \
    }                                                                                                                  \
                                                                                                                       \
    /* The bit map of `count` elements, and the planes, from `at` on, of those that are not 0. */                      \
    static void split_set_##W(const uint8_t *elements, size_t count, uint8_t *map, uint8_t *planes,                    \
                              size_t stride, size_t at) {                                                              \
        uint8_t values[(BLOCK + 64) * W];                                                                              \
        size_t held = 0;                                                                                               \
        for (size_t start = 0; start < count; start += 64) {                                                           \
            uint8_t is_set[64] = {0};                                                                                  \
            size_t left = count - start < 64 ? count - start : 64;                                                     \
            for (size_t i = 0; i < left; i++)                                                                          \
                is_set[i] = load_##W(elements, start + i) != 0;                                                        \
            for (size_t i = 0; i < left; i += 8)                                                                       \
                map[(start + i) / 8] = gather_bits(is_set + i);                                                        \
            for (size_t i = 0; i < left; i++) {                                                                        \
                store_##W(values, held, load_##W(elements, start + i));                                                \
                held += is_set[i];                                                                                     \
            }                                                                                                          \
            if (held >= BLOCK || start + 64 >= count) {                                                                \
                split_##W(values, held, planes, stride, at);                                                           \
                at += held;                                                                                            \
                held = 0;                                                                                              \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* Add the values of planes to `total`, or put them there. */                                                      \
    INLINE void add_all_##W(planes_in planes, size_t count, int is_first, uint8_t *total) {                            \
        uint8_t values[BLOCK * W];                                                                                     \
        for (size_t at = 0; at < count; at += BLOCK) {                                                                 \
            size_t size = count - at < BLOCK ? count - at : BLOCK;                                                     \
            join_##W(planes, at, size, values);                                                                        \
            if (is_first)                                                                                              \
                for (size_t i = 0; i < size; i++)                                                                      \
                    store_##W(total, at + i, unfold_##W(load_##W(values, i)));                                         \
            else                                                                                                       \
                for (size_t i = 0; i < size; i++)                                                                      \
                    store_##W(total, at + i, (T)(load_##W(total, at + i) + unfold_##W(load_##W(values, i))));          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* To those of `in_map` elements whose bits are set, the values that stand from `at` up to `end` in the planes. */ \
    static int add_set_##W(planes_in planes, size_t at, size_t end, const uint8_t *map, size_t in_map,                 \
                           uint8_t *total) {                                                                           \
        uint8_t values[(BLOCK + 1) * W];                                                                               \
        size_t next = 0, held = 0;                                                                                     \
        memset(values, 0, sizeof values);                                                                              \
        for (size_t word = 0; 64 * word < in_map; word++) {                                                            \
            uint64_t bits = map_word(map, in_map, word);                                                               \
            if (held - next < popcount(bits)) {                                                                        \
                at += next;                                                                                            \
                next = 0;                                                                                              \
                held = end - at < BLOCK ? end - at : BLOCK;                                                            \
                if (held < popcount(bits))                                                                             \
                    return FAILED;                                                                                     \
                join_##W(planes, at, held, values);                                                                    \
            }                                                                                                          \
            if (popcount(bits) > 16 && in_map - 64 * word >= 64) {                                                     \
                /* Without a branch for each: the value that is next, or nothing of it. */                             \
                uint8_t spread[64 * W];                                                                                \
                for (size_t i = 0; i < 64; i++) {                                                                      \
                    size_t is_set = (size_t)(bits >> i & 1);                                                           \
                    __asm__("" : "+r"(is_set)); /* or clang, which sees that it is 0 or 1, branches */                 \
                    store_##W(spread, i, (T)(load_##W(values, next) & (T)(0 - is_set)));                               \
                    next += is_set;                                                                                    \
                }                                                                                                      \
                for (size_t i = 0; i < 64; i++)                                                                        \
                    store_##W(total, 64 * word + i,                                                                    \
                              (T)(load_##W(total, 64 * word + i) + unfold_##W(load_##W(spread, i))));                  \
                continue;                                                                                              \
            }                                                                                                          \
            for (; bits; bits &= bits - 1) {                                                                           \
                size_t place = 64 * word + (size_t)__builtin_ctzll(bits);                                              \
                store_##W(total, place, (T)(load_##W(total, place) + unfold_##W(load_##W(values, next++))));           \
            }                                                                                                          \
        }                                                                                                              \
        return at + next == end ? 0 : FAILED;                                                                          \
    }

FOR_WIDTH(uint8_t, 1)
FOR_WIDTH(uint16_t, 2)
FOR_WIDTH(uint32_t, 4)
FOR_WIDTH(uint64_t, 8)

/* Where the processor has those instructions of AVX-512 (VBMI2) that spread values over the places of set bits, decoding
   uses them: for 64 elements at a time, in one lane. A build is for any processor, so this is found out when it runs. */
#if defined(__x86_64__) && !defined(NARROW) && (defined(__clang__) || __GNUC__ >= 8)
#include <immintrin.h>
#define WIDE static __attribute__((target("avx512f,avx512vl,avx512bw,avx512vbmi,avx512vbmi2,bmi2,popcnt")))
/* Each group takes time of its own, and the more the fewer elements a register holds. Beyond these, lanes are faster. */
#define MOST_WIDE_GROUPS 48
#define MOST_WIDE_BYTES 48

static int is_wide(void) {
    return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

static int groups_of(const uint32_t *sizes) {
    int groups = 1;
    for (int lane = 0; lane < LANES; lane++)
        for (int group = groups; group < MOST_GROUPS; group++)
            if (sizes[lane * MOST_GROUPS + group])
                groups = group + 1;
    return groups;
}

WIDE size_t count_bits_wide(const uint8_t *map, size_t size) { return count_bits(map, size); }

/* The groups of keys of up to 8 bits, and how many more there are of each. */
WIDE void number_wide(const uint8_t *keys, size_t count, const uint8_t *group_of, int groups, uint8_t *numbers,
                      uint32_t *sizes) {
    __m512i table[4];
    memcpy(table, group_of, sizeof table);
    for (size_t i = 0; i < count; i += 64) {
        __mmask64 given = ~(__mmask64)0 >> (count - i < 64 ? 64 - (count - i) : 0);
        __m512i key = _mm512_maskz_loadu_epi8(given, keys + i);
        __m512i low = _mm512_permutex2var_epi8(table[0], key, table[1]);
        __m512i high = _mm512_permutex2var_epi8(table[2], key, table[3]);
        __m512i number = _mm512_mask_blend_epi8(_mm512_movepi8_mask(key), low, high);
        _mm512_mask_storeu_epi8(numbers + i, given, number);
        for (int group = 0; group < groups; group++)
            sizes[group] += (uint32_t)popcount(_mm512_mask_cmpeq_epi8_mask(given, number, _mm512_set1_epi8((char)group)));
    }
}

#define WIDE_FOR_WIDTH(W, BITS, MASK)                                                                                  \
    WIDE void group_wide_##W(const uint8_t *raw, size_t count, int shift, unsigned mask, const uint8_t *group_of,      \
                             int groups, uint8_t *numbers, uint32_t *sizes) {                                          \
        uint8_t keys[BLOCK];                                                                                           \
        for (size_t lane = 0; lane < LANES; lane++) {                                                                  \
            size_t at = lane * (count / LANES), end = lane < LANES - 1 ? at + count / LANES : count;                   \
            for (size_t size; at < end; at += size) {                                                                  \
                size = end - at < BLOCK ? end - at : BLOCK;                                                            \
                for (size_t i = 0; i < size; i++)                                                                      \
                    keys[i] = (uint8_t)((load_##W(raw, at + i) >> shift) & mask);                                      \
                number_wide(keys, size, group_of, groups, numbers + at, sizes + lane * MOST_GROUPS);                   \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    WIDE void add_all_wide_##W(planes_in planes, size_t count, int is_first, uint8_t *total) {                         \
        add_all_##W(planes, count, is_first, total);                                                                   \
    }                                                                                                                  \
                                                                                                                       \
    /* As `add_set`; to nothing if `is_first`. Planes of values are spread first, with zeros in between. */            \
    WIDE int add_set_wide_##W(planes_in planes, size_t at, size_t end, const uint8_t *map, size_t in_map,              \
                              int is_first, uint8_t *total) {                                                          \
        uint8_t values[W][BLOCK];                                                                                      \
        const uint8_t *spread[W];                                                                                      \
        for (int plane = 0; plane < W; plane++)                                                                        \
            spread[plane] = planes[plane] == NULL ? NULL : values[plane];                                              \
        for (size_t start = 0; start < in_map; start += BLOCK) {                                                       \
            size_t size = in_map - start < BLOCK ? in_map - start : BLOCK;                                             \
            for (size_t i = 0; i < size; i += 64) {                                                                    \
                uint64_t bits = map_word(map, in_map, (start + i) / 64);                                               \
                if (popcount(bits) > end - at)                                                                         \
                    return FAILED;                                                                                     \
                for (int plane = 0; plane < W; plane++)                                                                \
                    if (planes[plane] != NULL)                                                                         \
                        _mm512_storeu_si512(values[plane] + i,                                                         \
                                            _mm512_maskz_expandloadu_epi8(bits, planes[plane] + at));                  \
                at += popcount(bits);                                                                                  \
            }                                                                                                          \
            add_all_##W(spread, size, is_first, total + start * W);                                                    \
        }                                                                                                              \
        return at == end ? 0 : FAILED;                                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    /* Of each group in turn what comes next, from `at` on, goes to its places among 64. */                            \
    WIDE int put_back_wide_##W(const uint8_t *total, const uint8_t *base, const uint8_t *numbers, size_t count,        \
                               int groups, uint32_t *at, uint8_t *raw) {                                               \
        size_t i = 0;                                                                                                  \
        for (; count - i >= 64; i += 64) {                                                                             \
            __m512i number = _mm512_loadu_si512(numbers + i), found[W] = {_mm512_setzero_si512()};                     \
            uint64_t known = 0;                                                                                        \
            for (int group = 0; group < groups; group++) {                                                             \
                uint64_t places = _mm512_cmpeq_epi8_mask(number, _mm512_set1_epi8((char)group));                       \
                if (popcount(places) > count - at[group])                                                              \
                    return FAILED;                                                                                     \
                known |= places;                                                                                       \
                for (int part = 0; part < W; part++) {                                                                 \
                    MASK here = (MASK)(places >> (64 / W * part));                                                     \
                    found[part] = _mm512_mask_expandloadu_epi##BITS(found[part], here, total + at[group] * (size_t)W); \
                    at[group] += (uint32_t)popcount(here);                                                             \
                }                                                                                                      \
            }                                                                                                          \
            if (~known)                                                                                                \
                return FAILED;                                                                                         \
            for (int part = 0; part < W; part++) {                                                                     \
                size_t place = i * W + 64 * (size_t)part;                                                              \
                __m512i sum = _mm512_add_epi##BITS(found[part], _mm512_loadu_si512(base + place));                     \
                _mm512_storeu_si512(raw + place, sum);                                                                 \
            }                                                                                                          \
        }                                                                                                              \
        for (; i < count; i++) {                                                                                       \
            size_t from = at[numbers[i]]++;                                                                            \
            if (from >= count)                                                                                         \
                return FAILED;                                                                                         \
            sum_##W(base + i * W, total + from * W, 0, 1, raw + i * W);                                                \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

WIDE_FOR_WIDTH(1, 8, __mmask64)
WIDE_FOR_WIDTH(2, 16, __mmask32)
WIDE_FOR_WIDTH(4, 32, __mmask16)
WIDE_FOR_WIDTH(8, 64, __mmask8)
#endif

/* Calls `NAME_W` for the width; what it gives is lost for those that give nothing. */
#define BY_WIDTH(NAME, ...)                                                                                            \
    (width == 1   ? NAME##_1(__VA_ARGS__)                                                                              \
     : width == 2 ? NAME##_2(__VA_ARGS__)                                                                              \
     : width == 4 ? NAME##_4(__VA_ARGS__)                                                                              \
                  : NAME##_8(__VA_ARGS__))

static int is_width(int width) { return width == 1 || width == 2 || width == 4 || width == 8; }

static int is_element(int width, int shift, int bits) {
    return is_width(width) && shift >= 0 && bits >= 0 && bits <= 11 && shift + bits <= 8 * width && shift < 8 * width;
}

/* How many of the first `size` bits of a map are set. */
EXPORT int64_t casstore_count_set(const uint8_t *map, size_t map_bytes, size_t size) {
    if (size > MOST_COUNT || map_bytes < (size + 7) / 8)
        return FAILED;
#ifdef WIDE
    if (is_wide())
        return (int64_t)count_bits_wide(map, size);
#endif
    return (int64_t)count_bits(map, size);
}

/* How often each key is among those of the elements 0, `every`, 2 * `every`, ...; `counts` has MOST_KEYS. */
EXPORT int64_t casstore_key_counts(const uint8_t *raw, size_t count, int width, int shift, int bits, size_t every,
                                   uint32_t *counts) {
    if (!is_element(width, shift, bits) || every == 0 || count > MOST_COUNT)
        return FAILED;
    memset(counts, 0, MOST_KEYS * sizeof *counts);
    BY_WIDTH(key_counts, raw, count, shift, (1u << bits) - 1, every, counts);
    return 0;
}

/* Each element's group, and of each lane how many are in each group: [LANES][MOST_GROUPS]. */
EXPORT int64_t casstore_group(const uint8_t *raw, size_t count, int width, int shift, int bits,
                              const uint16_t *last_keys, int groups, uint8_t *numbers, uint32_t *sizes) {
    uint8_t group_of[MOST_KEYS] = {0};
    unsigned key = 0;
    if (!is_element(width, shift, bits) || groups < 1 || groups > MOST_GROUPS || count > MOST_COUNT)
        return FAILED;
    for (int group = 0; group < groups; group++)
        for (; key <= last_keys[group] && key < 1u << bits; key++)
            group_of[key] = (uint8_t)group;
    if (key != 1u << bits)
        return FAILED;
    memset(sizes, 0, LANES * MOST_GROUPS * sizeof *sizes);
#ifdef WIDE
    if (is_wide() && bits <= 8 && groups <= MOST_WIDE_GROUPS) {
        BY_WIDTH(group_wide, raw, count, shift, (1u << bits) - 1, group_of, groups, numbers, sizes);
        return 0;
    }
#endif
    BY_WIDTH(group, raw, count, shift, (1u << bits) - 1, group_of, numbers, sizes);
    return 0;
}

static size_t group_size(const uint32_t *sizes, int group) {
    size_t size = 0;
    for (int lane = 0; lane < LANES; lane++)
        size += sizes[lane * MOST_GROUPS + group];
    return size;
}

#ifdef WIDE
/* Encoding, likewise: of each group, the bytes of each plane are pushed together in a register and stored where they
   belong, in a quarter to a third of the time. */
#define WIDE_INLINE WIDE inline

WIDE_INLINE __mmask64 first(size_t size) { return size < 64 ? ((__mmask64)1 << size) - 1 : ~(__mmask64)0; }

/* The planes of up to 64 folded differences; what is not `in` is not read, and gives zeros. */
WIDE_INLINE void planes_2(const uint8_t *raw, const uint8_t *base, __mmask64 in, __m512i *planes) {
    __m256i low[2], high[2];
    for (int part = 0; part < 2; part++) {
        __mmask32 some = (__mmask32)(in >> (32 * part));
        __m512i difference = _mm512_sub_epi16(_mm512_maskz_loadu_epi16(some, raw + 64 * part),
                                              _mm512_maskz_loadu_epi16(some, base + 64 * part));
        __m512i folded = _mm512_xor_si512(_mm512_slli_epi16(difference, 1), _mm512_srai_epi16(difference, 15));
        low[part] = _mm512_cvtepi16_epi8(folded);
        high[part] = _mm512_cvtepi16_epi8(_mm512_srli_epi16(folded, 8));
    }
    planes[0] = _mm512_inserti64x4(_mm512_castsi256_si512(low[0]), low[1], 1);
    planes[1] = _mm512_inserti64x4(_mm512_castsi256_si512(high[0]), high[1], 1);
}

WIDE_INLINE void planes_4(const uint8_t *raw, const uint8_t *base, __mmask64 in, __m512i *planes) {
    __m512i folded[4];
    for (int part = 0; part < 4; part++) {
        __mmask16 some = (__mmask16)(in >> (16 * part));
        __m512i difference = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(some, raw + 64 * part),
                                              _mm512_maskz_loadu_epi32(some, base + 64 * part));
        folded[part] = _mm512_xor_si512(_mm512_slli_epi32(difference, 1), _mm512_srai_epi32(difference, 31));
    }
    for (int plane = 0; plane < 4; plane++) {
        __m128i shift = _mm_cvtsi32_si128(8 * plane);
        __m512i bytes = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(_mm512_srl_epi32(folded[0], shift)));
        bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(_mm512_srl_epi32(folded[1], shift)), 1);
        bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(_mm512_srl_epi32(folded[2], shift)), 2);
        planes[plane] = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(_mm512_srl_epi32(folded[3], shift)), 3);
    }
}

#define ENCODE_WIDE_FOR_WIDTH(W)                                                                                       \
    WIDE_INLINE __mmask64 nonzero_##W(const __m512i *planes) {                                                         \
        __m512i any = planes[0];                                                                                       \
        for (int plane = 1; plane < W; plane++)                                                                        \
            any = _mm512_or_si512(any, planes[plane]);                                                                 \
        return _mm512_test_epi8_mask(any, any);                                                                        \
    }                                                                                                                  \
                                                                                                                       \
    WIDE_INLINE void store_some_##W(const __m512i *bytes, __mmask64 some, size_t size, uint8_t *planes,                \
                                    size_t stride) {                                                                   \
        for (int plane = 0; plane < W; plane++)                                                                        \
            _mm512_mask_storeu_epi8(planes + (size_t)plane * stride, first(size),                                      \
                                    _mm512_maskz_compress_epi8(some, bytes[plane]));                                   \
    }                                                                                                                  \
                                                                                                                       \
    /* All differences in the grouped order, in planes, and how many of each group differ. */                          \
    WIDE int arrange_wide_##W(const uint8_t *raw, const uint8_t *base, const uint8_t *numbers, size_t count,    \
                                     uint32_t *at, int groups, uint8_t *planes, uint64_t *nonzero) {                   \
        size_t placed = 0;                                                                                             \
        for (size_t start = 0; start < count; start += 64) {                                                           \
            __mmask64 in = first(count - start);                                                                       \
            __m512i bytes[W], group_of = _mm512_setzero_si512();                                                       \
            planes_##W(raw + start * W, base + start * W, in, bytes);                                                  \
            __mmask64 set = nonzero_##W(bytes);                                                                        \
            if (numbers != NULL)                                                                                       \
                group_of = _mm512_maskz_loadu_epi8(in, numbers + start);                                               \
            for (int group = 0; group < groups; group++) {                                                             \
                __mmask64 some = _mm512_mask_cmpeq_epi8_mask(in, group_of, _mm512_set1_epi8((char)group));             \
                size_t size = popcount(some);                                                                          \
                if (at[group] > count || size > count - at[group])                                                     \
                    return FAILED;                                                                                     \
                store_some_##W(bytes, some, size, planes + at[group], count);                                          \
                at[group] += (uint32_t)size;                                                                           \
                placed += size;                                                                                        \
                nonzero[group] += popcount(some & set);                                                                \
            }                                                                                                          \
        }                                                                                                              \
        return placed == count ? 0 : FAILED;                                                                           \
    }                                                                                                                  \
                                                                                                                       \
    /* From `from` on, the bit map, and in the planes only what differs. */                                            \
    WIDE void keep_set_wide_##W(size_t from, size_t count, uint8_t *map, uint8_t *planes) {                     \
        size_t at = from;                                                                                              \
        for (size_t start = from; start < count; start += 64) {                                                        \
            size_t left = count - start < 64 ? count - start : 64;                                                     \
            __m512i bytes[W];                                                                                          \
            for (int plane = 0; plane < W; plane++)                                                                    \
                bytes[plane] = _mm512_maskz_loadu_epi8(first(left), planes + (size_t)plane * count + start);           \
            uint64_t set = nonzero_##W(bytes);                                                                         \
            memcpy(map + (start - from) / 8, &set, (left + 7) / 8);                                                    \
            store_some_##W(bytes, set, popcount(set), planes + at, count);                                             \
            at += popcount(set);                                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    WIDE int encode_wide_##W(const uint8_t *raw, const uint8_t *base, const uint8_t *numbers, size_t count,     \
                                    const uint32_t *sizes, cursors *to, int groups, uint8_t *map, uint8_t *planes,     \
                                    uint64_t *nonzero) {                                                               \
        size_t dense_end = 0;                                                                                          \
        int dense = 0;                                                                                                 \
        memset(nonzero, 0, (size_t)groups * sizeof *nonzero);                                                          \
        if (arrange_wide_##W(raw, base, numbers, count, to->at[0], groups, planes, nonzero))                           \
            return FAILED;                                                                                             \
        for (; dense < groups; dense++) {                                                                              \
            size_t size = group_size(sizes, dense);                                                                    \
            if (4 * nonzero[dense] <= 3 * (uint64_t)size)                                                              \
                break;                                                                                                 \
            dense_end += size;                                                                                         \
        }                                                                                                              \
        keep_set_wide_##W(dense_end, count, map, planes);                                                              \
        return dense;                                                                                                  \
    }

ENCODE_WIDE_FOR_WIDTH(2)
ENCODE_WIDE_FOR_WIDTH(4)

#endif

/* Whether the processor has what those parts need. */
EXPORT int64_t casstore_is_wide(void) {
#ifdef WIDE
    return is_wide();
#else
    return 0;
#endif
}

/* Differences of two chunks as a delta has them.

   `numbers` is NULL where there is one group. `room` takes the differences; `map` has room for the bits of all elements,
   and each of the planes, `count` bytes apart, for all elements. `nonzero`, of MOST_GROUPS, gets how many differ in each
   group. Gives the number of dense groups; the caller works out from it how much of map and planes is filled. Where
   `room` is NULL, which is for wide machines and elements of two or four bytes, there is no need of it. */
EXPORT int64_t casstore_encode(const uint8_t *raw, const uint8_t *base, const uint8_t *numbers, size_t count, int width,
                               const uint32_t *sizes, int groups, uint8_t *room, uint8_t *map, uint8_t *planes,
                               uint64_t *nonzero) {
    cursors to;
    size_t start = 0, dense_end = 0;
    int dense = 0;
    if (!is_width(width) || groups < 1 || groups > MOST_GROUPS || count > MOST_COUNT || set_cursors(&to, sizes, count))
        return FAILED;
    if (room == NULL) {
#ifdef WIDE
        if (is_wide() && width == 2)
            return encode_wide_2(raw, base, numbers, count, sizes, &to, groups, map, planes, nonzero);
        if (is_wide() && width == 4)
            return encode_wide_4(raw, base, numbers, count, sizes, &to, groups, map, planes, nonzero);
#endif
        return FAILED;
    }
    if (BY_WIDTH(arrange, raw, base, numbers, count, &to, room))
        return FAILED;
    for (int group = 0; group < groups; group++) {
        size_t size = group_size(sizes, group);
        nonzero[group] = BY_WIDTH(count_set, room, start, start + size);
        if (dense == group && 4 * nonzero[group] > 3 * (uint64_t)size) {
            BY_WIDTH(split, room + start * (size_t)width, size, planes, count, start);
            dense++;
            dense_end = start + size;
        }
        start += size;
    }
    BY_WIDTH(split_set, room + dense_end * (size_t)width, count - dense_end, map, planes, count, dense_end);
    return dense;
}

/* Add one link's `values` differences to `total`, in the grouped order; to nothing if it is the first one. From
   `sparse_from` on, `map` says which differ; where it is NULL, none. */
EXPORT int64_t casstore_add(uint8_t *total, size_t count, int width, int is_first, size_t sparse_from,
                            const uint8_t *map, size_t map_bytes, planes_in planes, size_t values) {
    uint8_t *sparse;
    if (!is_width(width) || count > MOST_COUNT || sparse_from > count || values < sparse_from)
        return FAILED;
    if (map == NULL ? values != sparse_from : map_bytes < (count - sparse_from + 7) / 8)
        return FAILED;
    sparse = total + sparse_from * (size_t)width;
#ifdef WIDE
    if (is_wide() && map != NULL) {
        BY_WIDTH(add_all_wide, planes, sparse_from, is_first, total);
        return BY_WIDTH(add_set_wide, planes, sparse_from, values, map, count - sparse_from, is_first, sparse);
    }
#endif
    if (is_first)
        memset(sparse, 0, (count - sparse_from) * (size_t)width);
    BY_WIDTH(add_all, planes, sparse_from, is_first, total);
    if (map == NULL)
        return 0;
    return BY_WIDTH(add_set, planes, sparse_from, values, map, count - sparse_from, sparse);
}

/* A chunk from its base and the sum of its differences. `numbers` is NULL where there is one group. */
EXPORT int64_t casstore_put_back(const uint8_t *total, const uint8_t *base, const uint8_t *numbers, size_t count,
                                 int width, const uint32_t *sizes, const uint8_t *tail, size_t tail_bytes,
                                 uint8_t *raw) {
    cursors from;
    int failed;
    if (!is_width(width) || count > MOST_COUNT || set_cursors(&from, sizes, count))
        return FAILED;
#ifdef WIDE
    if (is_wide() && numbers != NULL && groups_of(sizes) * width <= MOST_WIDE_BYTES)
        failed = BY_WIDTH(put_back_wide, total, base, numbers, count, groups_of(sizes), from.at[0], raw);
    else
#endif
        failed = BY_WIDTH(put_back, total, base, numbers, count, &from, raw);
    if (failed)
        return FAILED;
    memcpy(raw + count * (size_t)width, tail, tail_bytes);
    return 0;
}

/* The planes of a chunk, one after the other. */
EXPORT int64_t casstore_split(const uint8_t *raw, size_t count, int width, uint8_t *planes) {
    if (!is_width(width) || count > MOST_COUNT)
        return FAILED;
    BY_WIDTH(split, raw, count, planes, count, 0);
    return 0;
}

/* The inverse, with a tail of bytes after the last element. */
EXPORT int64_t casstore_join(planes_in planes, size_t count, int width, const uint8_t *tail, size_t tail_bytes,
                             uint8_t *raw) {
    if (!is_width(width) || count > MOST_COUNT)
        return FAILED;
    BY_WIDTH(join_all, planes, count, raw);
    memcpy(raw + count * (size_t)width, tail, tail_bytes);
    return 0;
}
