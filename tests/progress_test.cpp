// The progress line: what it says, and how often.

#include "host/common/progress.h"
#include "host/common/text.h"

#include <gtest/gtest.h>
#include <algorithm>

namespace pvtune {
namespace {

struct Screen {
    std::string text;
    double time = 0;
    ProgressSink sink(bool terminal) {
        return {terminal, [this](std::string_view part) { text += part; }, [this] { return time; }};
    }
    std::int64_t count(char c) const { return std::count(text.begin(), text.end(), c); }
};

TEST(Progress, SaysDoneTotalRateRemainingAndValue) {
    Screen screen;
    Progress progress({"eval", 40, "windows", "tokens", 1024, false}, screen.sink(false));
    screen.time = 2;
    progress.update(10, "nll 3.1");
    EXPECT_EQ(screen.text, "eval: 10/40 windows, 5.12 k tokens/s, 6.0 s left, nll 3.1\n");
}

TEST(Progress, PlainLinesAreRareButFirstAndLastAreThere) {
    Screen screen;
    Progress progress({"tune", 1000, "steps", "", 1, false}, screen.sink(false));
    for (int i = 1; i <= 1000; ++i) {
        screen.time += 0.012;
        progress.update(i);
    }
    EXPECT_EQ(screen.text.find("tune: 1/1000"), 0U);
    EXPECT_NE(screen.text.find("tune: 1000/1000 steps"), std::string::npos);
    EXPECT_EQ(screen.count('\n'), 4);  // at 0.012, 5.016 and 10.02 s, and the last
}

TEST(Progress, ATerminalHasOneLineThatIsWipedAndEnded) {
    Screen screen;
    {
        Progress progress({"x", 3, "items", "", 1, false}, screen.sink(true));
        screen.time = 1;
        progress.update(1, "a long value");
        screen.time = 1.01;
        progress.update(2);  // too soon
        screen.time = 2;
        progress.update(2, "b");
        EXPECT_EQ(screen.count('\n'), 0);
    }
    EXPECT_EQ(screen.count('\r'), 2);
    EXPECT_EQ(screen.count('\n'), 1);  // by the destructor: it never came to an end
    const auto second = screen.text.rfind('\r');
    EXPECT_EQ(screen.text.size() - 2 - second, second - 1);  // padded to the longer line before
}

TEST(Progress, StaysSilentWhenQuietAndDoesNotRateWhatWasDoneBefore) {
    Screen screen;
    Progress quiet({"x", 1, "items", "", 1, true}, screen.sink(true));
    quiet.update(1);
    EXPECT_EQ(screen.text, "");
    Progress resumed({"tune", 100, "steps", "", 1, false}, screen.sink(false));
    screen.time = 8;  // reading what was done before
    resumed.start_at(90);
    screen.time = 9;
    resumed.update(92);
    EXPECT_EQ(screen.text, "tune: 92/100 steps, 2 steps/s, 4.0 s left\n");
}

TEST(Text, UnitsAndLines) {
    EXPECT_EQ(bytes_text(1023), "1023 B");
    EXPECT_EQ(bytes_text(std::int64_t{12} << 30), "12.0 GiB");
    EXPECT_EQ(count_text(134515008), "135 M");
    EXPECT_EQ(count_text(0.5), "0.50");
    EXPECT_EQ(duration_text(59.6), "1:00");
    EXPECT_EQ(duration_text(3723), "1:02:03");
    EXPECT_EQ(one_line(" a\n\tb  c\x01"), "a b c");
}

}  // namespace
}  // namespace pvtune
