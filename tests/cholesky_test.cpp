// The blocked Cholesky factor against Eigen's, and matrices that have none.
#include "host/quant/cholesky.h"
#include "tests/tensors.h"

namespace pvtune {
namespace {

using testing::with_threads;

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;

/// X^T X of random X, and a little on the diagonal.
template <class T>
Matrix<T> positive(std::int64_t n, std::uint32_t seed) {
    Matrix<T> x(n, n);
    testing::Uniform next(seed);
    for (std::int64_t i = 0; i < n * n; ++i) x(i) = static_cast<T>(next());
    return x.transpose() * x + Matrix<T>::Identity(n, n) * static_cast<T>(0.1 * static_cast<double>(n));
}

template <class T>
Matrix<T> lower_of(const Matrix<T>& factored) {
    return factored.template triangularView<Eigen::Lower>();
}

template <class T>
void expect_factor(double tolerance) {
    for (const std::int64_t n : {1, 7, 128, 129, 300}) {
        const Matrix<T> a = positive<T>(n, 1);
        Matrix<T> factored = a;
        ASSERT_TRUE(factorise_lower(factored)) << n;
        const Matrix<T> lower = lower_of(factored);
        const Matrix<T> product = lower * lower.transpose();
        EXPECT_LT(static_cast<double>((product - a).norm() / a.norm()), tolerance) << n;
    }
}

TEST(Cholesky, LowerTimesItsTransposeIsTheMatrix) {
    expect_factor<double>(1e-14);
    expect_factor<float>(1e-6);
}

TEST(Cholesky, TheUpperTriangleIsNotRead) {
    const Matrix<double> a = positive<double>(300, 2);
    Matrix<double> whole = a, half = a;
    half.triangularView<Eigen::StrictlyUpper>().setConstant(NAN);
    ASSERT_TRUE(factorise_lower(whole));
    ASSERT_TRUE(factorise_lower(half));
    EXPECT_EQ(lower_of(whole), lower_of(half));
}

TEST(Cholesky, NoneOfWhatIsNotPositiveOrNotFinite) {
    for (const std::int64_t at : {0, 100, 128, 299}) {
        for (const double value : {-1.0, 0.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
            Matrix<double> a = positive<double>(300, 3);
            a(at, at) = value;
            EXPECT_FALSE(factorise_lower(a)) << at << " " << value;
        }
    }
    Matrix<double> a = positive<double>(300, 3);
    a(299, 0) = NAN;
    EXPECT_FALSE(factorise_lower(a));
}

TEST(Cholesky, SameBitsForAnyThreads) {
    const Matrix<float> a = positive<float>(300, 4);
    Matrix<float> one = a;
    with_threads(1, [&] { ASSERT_TRUE(factorise_lower(one)); });
    for (const int threads : {2, 3}) {
        Matrix<float> other = a;
        with_threads(threads, [&] { ASSERT_TRUE(factorise_lower(other)); });
        EXPECT_EQ(lower_of(one), lower_of(other));
    }
}

}  // namespace
}  // namespace pvtune
