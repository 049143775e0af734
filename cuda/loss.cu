// Losses over rows of logits, with their gradients. With z, y the logits of student and teacher, a, b their
// log-sum-exps:  KL = sum p_y ((y - b) - (z - a)),  d KL / d z = p_z - p_y;  cross-entropy = a - z[target],
// d / d z = p_z - [target].
//
// A block has a row and a multiprocessor to itself. It reads the row once for the maximum and the sum of exponentials
// together, and a second time for the gradient: the first pieces from shared memory, which keeps as many as fit, then
// the others from the end backwards, because what was read last is what the L2 cache still has.

#include "cuda/device_limits.h"
#include "cuda/fast_math.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace pvtune::cuda {

namespace {

constexpr int most_threads = 1024;
constexpr int piece = 4;      ///< logits in 16 bytes
constexpr int under_way = 4;  ///< pieces of a thread that are on their way at once, of all arrays
constexpr float log2_e = 1.44269504F;
constexpr float ln_2 = 0.693147181F;
constexpr float absent = -1e30F;  ///< a logit that is not there: probability 0, and 0 times its distance is 0

/// A row cut into pieces at 16-byte boundaries of the array, whatever the row's length: the first and the last piece
/// may reach beyond the row.
struct Row {
    std::int64_t origin;  ///< of the first piece in the array
    int columns;
    int before;  ///< columns by which the first piece starts before the row
    int pieces;

    __device__ Row(std::int64_t index, int width)
        : origin(index * width / piece * piece),
          columns(width),
          before(static_cast<int>(index * width % piece)),
          pieces((before + columns + piece - 1) / piece) {}
    __device__ bool whole(int index) const {
        return index * piece >= before && index * piece + piece <= before + columns;
    }
    __device__ bool has(int place) const { return place >= before && place < before + columns; }
};

__device__ inline void load_piece(float (&values)[piece], const float* logits, const Row& row, int index) {
    const float* const from = logits + row.origin;
    if (row.whole(index)) {
        load_values<piece>(values, from + index * piece);
    } else {
        for (int i = 0; i < piece; ++i) {
            const int place = index * piece + i;
            values[i] = row.has(place) ? from[place] : absent;
        }
    }
}

template <class T>
__device__ inline void store_piece(T* gradients, const float (&values)[piece], const Row& row, int index) {
    T* const to = gradients + row.origin;
    if (row.whole(index)) {
        store_values<piece>(to + index * piece, values);
    } else {
        for (int i = 0; i < piece; ++i) {
            const int place = index * piece + i;
            if (row.has(place)) to[place] = from_float<T>(values[i]);
        }
    }
}

/// Sum of e^z over what has been seen, as 2^largest * sum; exponents are to the base 2, which the hardware raises.
struct Exponentials {
    float largest = -INFINITY;
    float sum = 0;

    /// z log2(e) - largest
    __device__ float exponent(float z) const { return fmaf(z, log2_e, -largest); }

    __device__ void include(const float (&values)[piece]) {
        const float here = fmaxf(fmaxf(values[0], values[1]), fmaxf(values[2], values[3])) * log2_e;
        if (here > largest) {
            sum *= exp2_fast(largest - here);
            largest = here;
        }
        for (int i = 0; i < piece; ++i) sum += exp2_fast(exponent(values[i]));
    }
    /// Those of the whole block, in every thread.
    __device__ Exponentials of_block(float* partials) const {
        Exponentials all;
        all.largest = block_max(largest, partials);
        all.sum = block_sum(sum * exp2_fast(largest - all.largest), partials);
        return all;
    }
};

/// The part of a row that stays in shared memory between the two passes: the first `count` pieces. A thread reads only
/// what it wrote, so that no barrier is needed.
struct Kept {
    float* values;
    int count;

    __device__ void put(int index, const float (&from)[piece]) const {
        if (index < count) store_values<piece>(values + index * piece, from);
    }
    __device__ void get(float (&to)[piece], const float* logits, const Row& row, int index) const {
        if (index < count) {
            load_values<piece>(to, values + index * piece);
        } else {
            load_piece(to, logits, row, index);
        }
    }
};

/// The last of the pieces threadIdx.x, threadIdx.x + blockDim.x, ...; negative if there is none.
__device__ inline int last_piece(const Row& row) {
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    return thread < row.pieces ? row.pieces - 1 - (row.pieces - 1 - thread) % threads : -1;
}

template <class T>
__global__ void __launch_bounds__(most_threads)
    kl_loss_kernel(float* loss, T* d_logits, const float* logits, const float* teacher, int columns, int kept_pieces,
                   float scale) {
    constexpr int batch = under_way / 2;
    __shared__ float partials[most_threads / warp_size];
    const int threads = static_cast<int>(blockDim.x);
    const Row row(blockIdx.x, columns);
    const Kept student_kept{dynamic_shared<float>(), kept_pieces};
    const Kept teacher_kept{student_kept.values + kept_pieces * piece, kept_pieces};
    float z[batch][piece];
    float y[batch][piece];

    Exponentials student;
    Exponentials other;
    for (int first = static_cast<int>(threadIdx.x); first < row.pieces; first += batch * threads) {
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            if (first + i * threads >= row.pieces) continue;
            load_piece(z[i], logits, row, first + i * threads);
            load_piece(y[i], teacher, row, first + i * threads);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            if (first + i * threads >= row.pieces) continue;
            student_kept.put(first + i * threads, z[i]);
            teacher_kept.put(first + i * threads, y[i]);
            student.include(z[i]);
            other.include(y[i]);
        }
    }
    student = student.of_block(partials);
    other = other.of_block(partials);
    const float student_share = 1.0F / student.sum;
    const float other_share = 1.0F / other.sum;

    float distance = 0;
    for (int last = last_piece(row); last >= 0; last -= batch * threads) {
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            if (last - i * threads < 0) continue;
            student_kept.get(z[i], logits, row, last - i * threads);
            teacher_kept.get(y[i], teacher, row, last - i * threads);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            if (last - i * threads < 0) continue;
            for (int j = 0; j < piece; ++j) {
                const float student_exponent = student.exponent(z[i][j]);
                const float other_exponent = other.exponent(y[i][j]);
                const float p_student = exp2_fast(student_exponent) * student_share;
                const float p_other = exp2_fast(other_exponent) * other_share;
                distance = fmaf(p_other, other_exponent - student_exponent, distance);
                // Not fused with the product above: equal probabilities must leave exactly 0.
                z[i][j] = scale * __fsub_rn(p_student, p_other);
            }
            if (d_logits != nullptr) store_piece(d_logits, z[i], row, last - i * threads);
        }
    }
    distance = block_sum(distance, partials);
    if (threadIdx.x == 0) loss[blockIdx.x] = ln_2 * (distance + (log2f(student.sum) - log2f(other.sum)));
}

template <class T>
__global__ void __launch_bounds__(most_threads)
    cross_entropy_loss_kernel(float* loss, T* d_logits, const float* logits, const std::uint32_t* targets, int columns,
                              int kept_pieces, float scale) {
    __shared__ float partials[most_threads / warp_size];
    const int threads = static_cast<int>(blockDim.x);
    const Row row(blockIdx.x, columns);
    const Kept kept{dynamic_shared<float>(), kept_pieces};
    const int target = row.before + static_cast<int>(targets[blockIdx.x]);
    const float target_logit = logits[row.origin + target];  // read before a gradient in its place is written
    float z[under_way][piece];

    Exponentials student;
    for (int first = static_cast<int>(threadIdx.x); first < row.pieces; first += under_way * threads) {
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            if (first + i * threads < row.pieces) load_piece(z[i], logits, row, first + i * threads);
        }
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            if (first + i * threads >= row.pieces) continue;
            kept.put(first + i * threads, z[i]);
            student.include(z[i]);
        }
    }
    student = student.of_block(partials);
    if (threadIdx.x == 0) loss[blockIdx.x] = ln_2 * (log2f(student.sum) - student.exponent(target_logit));
    if (d_logits == nullptr) return;

    const float share = 1.0F / student.sum;
    for (int last = last_piece(row); last >= 0; last -= under_way * threads) {
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            if (last - i * threads >= 0) kept.get(z[i], logits, row, last - i * threads);
        }
#pragma unroll
        for (int i = 0; i < under_way; ++i) {
            const int index = last - i * threads;
            if (index < 0) continue;
            for (int j = 0; j < piece; ++j) {
                const float hit = index * piece + j == target ? 1.0F : 0.0F;
                z[i][j] = scale * (exp2_fast(student.exponent(z[i][j])) * share - hit);
            }
            store_piece(d_logits, z[i], row, index);
        }
    }
}

/// Pieces of each of `arrays` rows that shared memory can keep.
std::int64_t kept_pieces(std::int64_t vocabulary, int arrays) {
    constexpr int partials = most_threads / warp_size * static_cast<int>(sizeof(float));
    const std::int64_t room = (most_shared_bytes() - partials) / (arrays * piece * static_cast<int>(sizeof(float)));
    return std::min(room, ceil_divide(vocabulary, piece) + 1);
}

/// Of a block: as many as have a piece each.
unsigned threads_for(std::int64_t vocabulary) {
    const std::int64_t pieces = ceil_divide(vocabulary, piece) + 1;
    return static_cast<unsigned>(std::min<std::int64_t>(ceil_divide(pieces, warp_size) * warp_size, most_threads));
}

std::size_t kept_bytes(std::int64_t pieces, int arrays) {
    return static_cast<std::size_t>(arrays * pieces) * piece * sizeof(float);
}

void check_rows(std::int64_t rows, std::int64_t vocabulary) {
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    if (rows > most || vocabulary > most - 2 * piece) {
        throw std::invalid_argument("loss: " + std::to_string(rows) + " rows of " + std::to_string(vocabulary) +
                                    " logits are too many");
    }
}

}  // namespace

template <class T>
void kl_loss(float* loss, T* d_logits, const float* logits, const float* teacher, std::int64_t rows,
             std::int64_t vocabulary, float scale, Stream stream) {
    if (rows == 0) return;
    check_rows(rows, vocabulary);
    const std::int64_t kept = kept_pieces(vocabulary, 2);
    launch(kl_loss_kernel<T>, static_cast<unsigned>(rows), threads_for(vocabulary), kept_bytes(kept, 2), stream, loss,
           d_logits, logits, teacher, vocabulary, kept, scale);
}

template <class T>
void cross_entropy_loss(float* loss, T* d_logits, const float* logits, const std::uint32_t* targets, std::int64_t rows,
                        std::int64_t vocabulary, float scale, Stream stream) {
    if (rows == 0) return;
    check_rows(rows, vocabulary);
    const std::int64_t kept = d_logits == nullptr ? 0 : kept_pieces(vocabulary, 1);
    launch(cross_entropy_loss_kernel<T>, static_cast<unsigned>(rows), threads_for(vocabulary), kept_bytes(kept, 1),
           stream, loss, d_logits, logits, targets, vocabulary, kept, scale);
}

template void kl_loss(float*, float*, const float*, const float*, std::int64_t, std::int64_t, float, Stream);
template void kl_loss(float*, bf16*, const float*, const float*, std::int64_t, std::int64_t, float, Stream);
template void cross_entropy_loss(float*, float*, const float*, const std::uint32_t*, std::int64_t, std::int64_t, float,
                                 Stream);
template void cross_entropy_loss(float*, bf16*, const float*, const std::uint32_t*, std::int64_t, std::int64_t, float,
                                 Stream);

}  // namespace pvtune::cuda
