#pragma once

#include "host/backend/backend.h"

namespace pvtune {

/// A quantised matrix's memory, which goes when the matrix does: a calibration holds one block's, not the whole
/// model's. While planning it is the run's, so that the plan counts it.
class OwnMemory {
public:
    explicit OwnMemory(Backend& backend) : shared_(backend.arena()) {
        if (!shared_.planning()) own_ = backend.new_arena();
    }
    Arena& arena() { return own_ ? *own_ : shared_; }

private:
    Arena& shared_;
    std::unique_ptr<Arena> own_;
};

}  // namespace pvtune
