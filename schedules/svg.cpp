// Layout and drawing; svg.hpp shows the picture. Lengths are pixels (CSS, 96 an inch).
#include "schedules/svg.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>

#include "kernels/check.hpp"
#include "schedules/palette.hpp"
#include "schedules/text.hpp"

namespace pipemark {
namespace {

constexpr double kFont = 11, kSmallFont = 9, kLeastFont = 5;
constexpr double kCharWidth = 0.62;  // of the font's size, digits of a sans-serif
constexpr double kMargin = 10, kTitleHeight = 20, kAxisHeight = 34, kLegendHeight = 18;
constexpr double kCausesWidth = 130, kCausesGap = 18;
constexpr double kLeastPlot = 480, kMostPlot = 2400;

/// Appends SVG elements; numbers with two decimals at most.
class Writer {
 public:
  void rect(double x, double y, double w, double h, const std::string& fill,
            const std::string& tooltip = {}) {
    out_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"", n(x),
                        n(y), n(w), n(h), fill);
    out_ += tooltip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escape(tooltip));
  }
  void frame(double x, double y, double w, double h) {
    out_ += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#ffffff\" "
        "stroke-width=\"0.7\"/>\n",
        n(x), n(y), n(w), n(h));
  }
  void line(double x0, double y0, double x1, double y1) {
    out_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"#444444\"/>\n",
                        n(x0), n(y0), n(x1), n(y1));
  }
  /// anchor: "start", "middle" or "end".
  void text(double x, double y, double size, const char* anchor, const std::string& words,
            bool bold = false) {
    out_ += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"{}\" text-anchor=\"{}\"{}>{}</text>\n",
                        n(x), n(y), n(size), anchor, bold ? " font-weight=\"bold\"" : "",
                        escape(words));
  }
  std::string whole(double width, double height) const {
    return fmt::format(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" width=\"{0}\" height=\"{1}\" "
        "viewBox=\"0 0 {0} {1}\" font-family=\"Helvetica, Arial, sans-serif\" fill=\"#000000\">\n"
        "<rect x=\"0\" y=\"0\" width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n{2}</svg>\n",
        n(width), n(height), out_);
  }

 private:
  static std::string n(double value) {
    std::string text = fmt::format("{:.2f}", value);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  }
  static std::string escape(const std::string& words) {
    std::string out;
    for (const char c : words) {
      out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
    }
    return out;
  }
  std::string out_;
};

/// A colour mixed with white: later chunks of a rank are paler.
std::string paler(const std::string& rgb, double share) {
  std::string out = "#";
  for (const std::size_t at : {1u, 3u, 5u}) {
    const int part = std::stoi(rgb.substr(at, 2), nullptr, 16);
    out += fmt::format("{:02x}", static_cast<int>(std::lround(part + (255 - part) * share)));
  }
  return out;
}

/// 1, 2 or 5 times a power of ten, at least `least`.
double tick_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least) return factor * power;
  }
  return 10 * power;
}

struct Layout {
  double left = 0, plot = 0, row = 0;  // margin of the labels, width of the plot, height of a row
  double time = 0;                     // of the longest timeline
  double digits = 1;                   // of the largest micro-batch's number
  bool causes = false;

  double x(double at, double start_of_timeline) const {
    return left + (at - start_of_timeline) / time * plot;
  }
  double causes_left() const { return left + plot + kCausesGap; }
  double width() const {
    return (causes ? causes_left() + kCausesWidth : left + plot) + 2 * kMargin;
  }
};

Layout layout_of(const Drawing& drawing, const SvgOptions& options) {
  Layout layout;
  double shortest = std::numeric_limits<double>::infinity();
  std::size_t ranks = 0;
  for (const DrawnTimeline& drawn : drawing.timelines) {
    layout.time = std::max(layout.time, drawn.timeline.makespan_s());
    layout.causes = layout.causes || !drawn.idle.ranks.empty();
    ranks = std::max(ranks, drawn.timeline.ranks.size());
    for (const auto& row : drawn.timeline.ranks) {
      for (const TimedAction& timed : row) {
        if (timed.end_s > timed.start_s) {
          shortest = std::min(shortest, timed.end_s - timed.start_s);
        }
      }
    }
  }
  check(layout.time > 0, "render_svg: a timeline of no time cannot be drawn");
  layout.left = kMargin + kCharWidth * kFont * (fmt::format("rank {}", ranks - 1).size() + 1.0);
  layout.row = std::clamp(640.0 / static_cast<double>(ranks), 4.0, 20.0);
  layout.digits = static_cast<double>(
      fmt::format("{}", std::max(0, drawing.schedule.micro_batches - 1)).size());
  const double wanted = layout.time / shortest * (layout.digits * kCharWidth * kSmallFont + 4);
  layout.plot = std::clamp(wanted, kLeastPlot, kMostPlot);
  if (options.width > 0) {
    layout.plot = 0;
    layout.plot = std::max(100.0, options.width - layout.width());
  }
  return layout;
}

class Picture {
 public:
  Picture(const Drawing& drawing, const SvgOptions& options)
      : drawing_(drawing), layout_(layout_of(drawing, options)) {
    const Placement& placement = drawing.schedule.placement;
    for (int rank = 0; rank < placement.ranks; ++rank) {
      const auto held = placement.held_by(rank);
      for (std::size_t k = 0; k < held.size(); ++k) {
        // The last of n chunks is mixed with 55 % of white.
        chunk_paleness_[held[k]] =
            held.size() > 1 ? 0.55 * static_cast<double>(k) / static_cast<double>(held.size() - 1)
                            : 0;
      }
    }
  }

  std::string draw() {
    const Schedule& schedule = drawing_.schedule;
    y_ = kMargin + kFont;
    svg_.text(kMargin, y_, kFont, "start",
              fmt::format("{}, {} ranks, {} micro-batches", schedule.name, schedule.placement.ranks,
                          schedule.micro_batches),
              true);
    y_ += 6;
    for (const DrawnTimeline& drawn : drawing_.timelines) draw_timeline(drawn);
    draw_legend();
    return svg_.whole(layout_.width(), y_ + kMargin);
  }

 private:
  void draw_timeline(const DrawnTimeline& drawn) {
    const Timeline& timeline = drawn.timeline;
    y_ += kTitleHeight;
    svg_.text(
        kMargin, y_ - 7, kSmallFont, "start",
        fmt::format("{} [{}]: bubble_ratio {:.4f}, span_bubble_rate {:.4f}, makespan {:.4g}{}",
                    drawn.name, drawn.evidence, timeline.bubble_ratio(),
                    timeline.span_bubble_rate(), timeline.makespan_s(), unit_with_space()));
    const double top = y_, start = timeline.first_start_s();
    for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
      const double y = top + layout_.row * static_cast<double>(r);
      // At small rows only every few ranks have room for a label.
      const auto every = static_cast<std::size_t>(std::ceil(kSmallFont / layout_.row));
      if (r % every == 0) {
        svg_.text(layout_.left - 6, y + layout_.row / 2 + 3.5, kSmallFont, "end",
                  fmt::format("rank {}", r));
      }
      svg_.rect(layout_.left, y, layout_.plot, layout_.row - 1, "#f1f1f1");
      for (const TimedAction& timed : timeline.ranks[r]) draw_action(timed, y, start);
    }
    y_ = top + layout_.row * static_cast<double>(timeline.ranks.size());
    if (!drawn.idle.ranks.empty()) draw_causes(drawn.idle, top);
    draw_axis();
  }

  std::string colour_of(Kind kind, int replica, int stage) const {
    const auto at = chunk_paleness_.find({replica, stage});
    return paler(style_of(kind).rgb, at == chunk_paleness_.end() ? 0 : at->second);
  }

  void draw_action(const TimedAction& timed, double y, double start) {
    const Action& a = timed.action;
    const double x = layout_.x(timed.start_s, start), w = layout_.x(timed.end_s, start) - x;
    const double h = layout_.row - 1;
    const std::string tooltip =
        fmt::format("{}: {:.6g} to {:.6g}{}", to_text(a), timed.start_s - start,
                    timed.end_s - start, unit_with_space());
    if (a.kind == Kind::FB) {  // the forward above, the backward below
      svg_.rect(x, y, w, h / 2, colour_of(Kind::F, a.replica, a.stage), tooltip);
      svg_.rect(x, y + h / 2, w, h / 2, colour_of(Kind::B, a.replica_b, a.stage_b), tooltip);
      number(a.micro_batch, x, y, w, h / 2);
      number(a.micro_batch_b, x, y + h / 2, w, h / 2);
    } else {
      svg_.rect(x, y, w, h, colour_of(a.kind, a.replica, a.stage), tooltip);
      number(a.micro_batch, x, y, w, h);
    }
    if (w > 2) svg_.frame(x, y, w, h);
  }

  /// Written where the largest number would fit, so that equal actions have equal type.
  void number(int micro_batch, double x, double y, double w, double h) {
    const double size = std::min({kSmallFont, h - 1.0, (w - 2) / (kCharWidth * layout_.digits)});
    if (size < kLeastFont) return;
    svg_.text(x + w / 2, y + h / 2 + 0.36 * size, size, "middle", fmt::format("{}", micro_batch));
  }

  /// A bar a rank, as long as its idle share of the makespan.
  void draw_causes(const IdleAnalysis& idle, double top) {
    double most = 0;
    for (const IdleCauses& rank : idle.ranks) most = std::max(most, rank.total());
    // The axis ends at a round share; no idle time at all still has one.
    const double step = tick_step(std::max(most, 1e-3) / 2), end = 2 * step;
    const double left = layout_.causes_left();
    svg_.text(left, top - 7, kSmallFont, "start", "idle time by cause");
    for (std::size_t r = 0; r < idle.ranks.size(); ++r) {
      const IdleCauses& rank = idle.ranks[r];
      const double y = top + layout_.row * static_cast<double>(r);
      const double shares[] = {rank.fill_drain, rank.imbalance, rank.exposed_communication,
                               rank.overhead};
      double x = left;
      for (std::size_t cause = 0; cause < std::size(shares); ++cause) {
        const double w = shares[cause] / end * kCausesWidth;
        if (w <= 0) continue;
        svg_.rect(x, y, w, layout_.row - 1, kCauseStyles[cause].rgb,
                  fmt::format("rank {}: {} {:.2f} % of the makespan", r, kCauseStyles[cause].text,
                              100 * shares[cause]));
        x += w;
      }
    }
    axis(left, kCausesWidth, 100 * end, 100 * step, "% of the makespan");
  }

  void draw_axis() {
    const double step = tick_step(layout_.time / std::max(2.0, layout_.plot / 80));
    axis(layout_.left, layout_.plot, layout_.time, step,
         drawing_.time_unit.empty() ? "time" : fmt::format("time ({})", drawing_.time_unit));
    y_ += kAxisHeight;
  }

  void axis(double left, double width, double end, double step, const std::string& label) {
    svg_.line(left, y_ + 1, left + width, y_ + 1);
    for (int i = 0; i * step <= end * (1 + 1e-9); ++i) {
      const double x = left + i * step / end * width;
      svg_.line(x, y_ + 1, x, y_ + 5);
      svg_.text(x, y_ + 15, kSmallFont, "middle", fmt::format("{:.6g}", i * step));
    }
    svg_.text(left + width / 2, y_ + 26, kSmallFont, "middle", label);
  }

  bool has_kind(Kind kind) const {
    for (const DrawnTimeline& drawn : drawing_.timelines) {
      for (const auto& row : drawn.timeline.ranks) {
        for (const TimedAction& timed : row) {
          const Kind has = timed.action.kind;
          if (has == kind || (has == Kind::FB && (kind == Kind::F || kind == Kind::B))) return true;
        }
      }
    }
    return false;
  }

  void entry(double& x, const std::string& colour, const std::string& words) {
    const double wide = 26 + kCharWidth * kSmallFont * static_cast<double>(words.size());
    if (x + wide > layout_.width() - kMargin && x > kMargin) {
      x = kMargin;
      y_ += kLegendHeight;
    }
    svg_.rect(x, y_ + 4, 12, 10, colour);
    svg_.text(x + 16, y_ + 13, kSmallFont, "start", words);
    x += wide;
  }

  void draw_legend() {
    double x = kMargin;
    y_ += 4;
    for (const KindStyle& style : kKindStyles) {
      if (style.kind != Kind::FB && has_kind(style.kind)) entry(x, style.rgb, style.text);
    }
    const Placement& placement = drawing_.schedule.placement;
    if (placement.stages_per_rank() > 1) {
      entry(
          x, paler(style_of(Kind::F).rgb, 0.55),
          placement.replicas > 1 ? "paler: the other replica" : "paler: later chunks of the rank");
    }
    entry(x, "#f1f1f1", "idle");
    if (layout_.causes) {
      x = kMargin;
      y_ += kLegendHeight;
      svg_.text(x, y_ + 13, kSmallFont, "start", "idle by cause:");
      x += 80;
      for (const CauseStyle& cause : kCauseStyles) entry(x, cause.rgb, cause.text);
    }
    y_ += kLegendHeight;
  }

  std::string unit_with_space() const {
    return drawing_.time_unit.empty() ? "" : " " + drawing_.time_unit;
  }

  const Drawing& drawing_;
  const Layout layout_;
  std::map<std::pair<int, int>, double> chunk_paleness_;  // by (replica, stage)
  Writer svg_;
  double y_ = 0;
};

}  // namespace

std::string render_svg(const Drawing& drawing, const SvgOptions& options) {
  check(!drawing.timelines.empty(), "render_svg: there is no timeline");
  return Picture(drawing, options).draw();
}

}  // namespace pipemark
