#include "host/backend/backend.h"

namespace pvtune {

double Backend::sum_of_squares(Tensor values) {
    if (scalar_.empty()) scalar_ = arena().allocate("scalar", DType::f64, {1});
    ops().sum_of_squares(scalar_, values);
    double sum = 0;
    download(&sum, scalar_);
    return sum;
}

}  // namespace pvtune
