// A call under trial: on every instruction set, on one thread and on two, it writes the same bytes whatever the threads,
// and what it was given to write to stays as it was where it is refused.
#pragma once

#include <functional>

#include "fuzz.h"

class Trial {
  public:
    using Call = std::function<int(wf_runtime *)>;
    using Check = std::function<std::string()>;  // what is wrong with the results; empty: nothing

    Trial(Fuzz &fuzz, const char *name, Call call) : fuzz_(fuzz), name_(name), call_(std::move(call)) {}

    // What the call writes; what is there now will be there before each call.
    template <class T>
    void writes(T *at, int64_t count) {
        uint8_t *bytes = reinterpret_cast<uint8_t *>(at);
        outputs_.push_back({bytes, {bytes, bytes + sizeof(T) * size_t(count)}, {}});
    }
    // A gap in what it writes, which stays as it is.
    template <class T>
    void leaves(T *at, int64_t count) {
        if (!count) return;
        uint8_t *bytes = reinterpret_cast<uint8_t *>(at);
        gaps_.push_back({bytes, {bytes, bytes + sizeof(T) * size_t(count)}, {}});
    }

    bool agrees(const Check &check) {
        for (size_t i = 0; i <= fuzz_.isas.size(); i++) {
            const std::string isa = i < fuzz_.isas.size() ? fuzz_.isas[i] : "generic";
            const auto wrong = [&](const std::string &problem) {
                return fuzz_.message = name_ + (", " + isa) + ": " + problem, false;
            };
            fuzz_.use(isa);
            for (const int threads : {1, 2}) {
                restore();
                if (const int error = call_(fuzz_.runtime(threads))) return wrong("error " + std::to_string(error));
                if (!same(gaps_, &Output::before)) return wrong("wrote between its rows");
                if (threads == 2 && !same(outputs_, &Output::after)) return wrong("two threads differ from one");
                for (Output &output : outputs_) output.after.assign(output.at, output.at + output.before.size());
            }
            if (const std::string problem = check(); !problem.empty()) return wrong(problem);
        }
        return true;
    }

    // To be asked once an argument is spoiled.
    bool refuses() {
        restore();
        if (!fuzz_.refused(name_, call_(fuzz_.below(16) ? fuzz_.runtime() : nullptr))) return false;
        if (same(outputs_, &Output::before)) return true;
        fuzz_.message = std::string(name_) + ": a bad call wrote before it was refused";
        return false;
    }

  private:
    struct Output {
        uint8_t *at;
        std::vector<uint8_t> before, after;
    };

    void restore() {
        for (const Output &output : outputs_) std::memcpy(output.at, output.before.data(), output.before.size());
    }
    static bool same(const std::vector<Output> &outputs, std::vector<uint8_t> Output::*as) {
        for (const Output &output : outputs)
            if (std::memcmp(output.at, (output.*as).data(), output.before.size())) return false;
        return true;
    }

    Fuzz &fuzz_;
    const char *name_;
    Call call_;
    std::vector<Output> outputs_, gaps_;
};
