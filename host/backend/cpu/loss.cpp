// Losses over a chunk of tokens. A row of logits (some hundred KB) stays in a core's L2 cache between the passes.

#include "host/backend/cpu/cpu_ops.h"
#include "host/backend/cpu/simd.h"

#include <algorithm>
#include <cmath>

namespace pvtune::cpu {

namespace {

float log_sum_exp(const float* logits, std::int64_t count) {
    float largest = logits[0];
#pragma omp simd reduction(max : largest)
    for (std::int64_t i = 0; i < count; ++i) largest = logits[i] > largest ? logits[i] : largest;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < count; ++i) sum += exponential(logits[i] - largest);
    return largest + std::log(sum);
}

}  // namespace

// With a, b the two log-sum-exps: loss = sum p_t ((z_t - a) - (z_s - b)); d loss / d z_s = p_s - p_t.
void kl_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor teacher, float scale) {
    const std::int64_t rows = logits.dim(0);
    const std::int64_t vocabulary = logits.dim(1);
    with_element(d_logits.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t t = 0; t < rows; ++t) {
            const float* student_row = logits.as<float>() + t * vocabulary;
            const float* teacher_row = teacher.as<float>() + t * vocabulary;
            T* gradient = d_logits.as<T>() + t * vocabulary;
            const float student_sum = log_sum_exp(student_row, vocabulary);
            const float teacher_sum = log_sum_exp(teacher_row, vocabulary);
            float divergence = 0;
#pragma omp simd reduction(+ : divergence)
            for (std::int64_t i = 0; i < vocabulary; ++i) {
                const float log_student = student_row[i] - student_sum;
                const float log_teacher = teacher_row[i] - teacher_sum;
                const float p_teacher = exponential(log_teacher);
                divergence += p_teacher * (log_teacher - log_student);
                gradient[i] = from_float<T>(scale * (exponential(log_student) - p_teacher));
            }
            loss.as<float>()[t] = divergence;
        }
    });
}

void cross_entropy_loss(Tensor loss, Tensor d_logits, Tensor logits, Tensor targets, float scale) {
    const std::int64_t rows = logits.dim(0);
    const std::int64_t vocabulary = logits.dim(1);
#pragma omp parallel for schedule(static)
    for (std::int64_t t = 0; t < rows; ++t) {
        const float* row = logits.as<float>() + t * vocabulary;
        const std::uint32_t target = targets.as<std::uint32_t>()[t];
        const float sum = log_sum_exp(row, vocabulary);
        loss.as<float>()[t] = sum - row[target];
        if (d_logits.empty()) continue;
        with_element(d_logits.dtype, [&]<class T>(T) {
            T* gradient = d_logits.as<T>() + t * vocabulary;
#pragma omp simd
            for (std::int64_t i = 0; i < vocabulary; ++i)
                gradient[i] = from_float<T>(scale * exponential(row[i] - sum));
            gradient[target] = from_float<T>(scale * (exponential(row[target] - sum) - 1.0F));
        });
    }
}

void mse_loss(Tensor losses, Tensor d_out, Tensor out, Tensor target, float scale) {
    const std::int64_t rows = out.dim(0);
    const std::int64_t width = out.elements() / std::max<std::int64_t>(rows, 1);
    with_element(out.dtype, [&]<class T>(T) {
#pragma omp parallel for schedule(static)
        for (std::int64_t t = 0; t < rows; ++t) {
            const T* row = out.as<T>() + t * width;
            const T* wanted = target.as<T>() + t * width;
            float squares = 0;
#pragma omp simd reduction(+ : squares)
            for (std::int64_t i = 0; i < width; ++i) {
                const float difference = to_float(row[i]) - to_float(wanted[i]);
                squares += difference * difference;
            }
            losses.as<float>()[t] = squares / static_cast<float>(width);
            if (d_out.empty()) continue;
            T* gradient = d_out.as<T>() + t * width;
#pragma omp simd
            for (std::int64_t i = 0; i < width; ++i) {
                gradient[i] = from_float<T>(scale * (to_float(row[i]) - to_float(wanted[i])));
            }
        }
    });
}

}  // namespace pvtune::cpu
