// The kinds of actions and the causes of idle time as all renderers name and colour them. The
// colours differ in lightness too, so that they are told apart in print without colour.
#pragma once

#include <array>

#include "schedules/schedule.hpp"

namespace pipemark {

struct KindStyle {
  Kind kind;
  const char* text;  ///< legend
  int ansi;          ///< of the 256 colours of a terminal
  const char* rgb;
};

inline constexpr std::array<KindStyle, 5> kKindStyles = {{
    {Kind::F, "F forward", 117, "#87c9f0"},
    {Kind::B, "B full backward", 215, "#f2a65a"},
    {Kind::I, "I input gradient", 222, "#f8d38b"},
    {Kind::W, "W weight gradient", 114, "#8fce91"},
    {Kind::FB, "F+B overlapped", 182, "#cfa6d6"},
}};

inline const KindStyle& style_of(Kind kind) { return kKindStyles[static_cast<std::size_t>(kind)]; }

struct CauseStyle {
  const char* text;
  const char* rgb;
};

/// In the order of IdleCauses.
inline constexpr std::array<CauseStyle, 4> kCauseStyles = {{
    {"fill/drain", "#c9c9c9"},
    {"imbalance", "#e0705c"},
    {"exposed communication", "#6a5acd"},
    {"overhead", "#2f3640"},
}};

}  // namespace pipemark
