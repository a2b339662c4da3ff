// Deformable sampling on the processor, behind a C interface: no Python header is needed, and torch's only for its threads.
//
// One task owns one (image, head): its rows are copied into one contiguous block that stays in the cache, and in the backward pass it owns
// the gradient of those rows. Every sum has one order, whatever the number of threads; no atomic touches a gradient.
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <new>
#include <vector>

#include "sampling.h"

namespace {

using namespace sampling;

enum Status : int { kDone = 0, kImageOutOfRange = 1, kOutOfMemory = 2, kUnknownType = 3, kFailed = 4 };

struct Problem {
  int64_t images, cells, heads, channels, levels, location_levels, queries, points;
  const int64_t* shapes;
  const int64_t* image;
  std::vector<Level> level;
  std::vector<int64_t> order, begin;  // queries by image, in their own order; where each image's begin

  // False when a query names an image that is not there.
  bool prepare() {
    int64_t start = 0;
    for (int64_t number = 0; number < levels; ++number) {
      level.push_back({shapes[2 * number], shapes[2 * number + 1], start});
      start += shapes[2 * number] * shapes[2 * number + 1];
    }
    begin.assign(images + 1, 0);
    for (int64_t query = 0; query < queries; ++query) {
      if (image[query] < 0 || image[query] >= images) return false;
      ++begin[image[query] + 1];
    }
    for (int64_t number = 0; number < images; ++number) begin[number + 1] += begin[number];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    order.resize(queries);
    for (int64_t query = 0; query < queries; ++query) order[next[image[query]]++] = query;
    return true;
  }

  // Where a row of value, and where an output's numbers begin; an output is one (query, head), query * heads + head.
  int64_t row_of(int64_t number, int64_t cell, int64_t head) const { return ((number * cells + cell) * heads + head) * channels; }
  int64_t location_of(int64_t output) const { return output * location_levels * points * 2; }
  int64_t weight_of(int64_t output) const { return output * levels * points; }
};

// Tasks are handed out one by one, so that a slow one holds up no other; what a task computes does not depend on who runs it.
template <typename Run>
void each_task(int64_t tasks, const Run& run) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks), 1, [&](int64_t, int64_t) { run(next); });
}

// Memory that lies in strides is asked for before it is needed: no processor guesses it.
constexpr int64_t kAhead = 8, kLine = 64;

template <bool kWrites = false, typename T>
void prefetch(const T* from, int64_t count) {
  for (int64_t place = 0; place < count; place += kLine / sizeof(T)) __builtin_prefetch(from + place, kWrites);
}

template <typename From, typename To>
void copy_row(const From* from, int64_t channels, To* to) {
  for (int64_t channel = 0; channel < channels; ++channel) to[channel] = static_cast<To>(from[channel]);
}

template <typename From, typename To>
void copy_rows(const From* from, int64_t from_stride, int64_t rows, int64_t channels, To* to, int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t ahead = std::min(row + kAhead, rows - 1);
    prefetch(from + ahead * from_stride, channels);
    prefetch<true>(to + ahead * to_stride, channels);
    copy_row(from + row * from_stride, channels, to + row * to_stride);
  }
}

// Goes over outputs, a few at a time.
template <typename A>
struct Walk {
  const Problem& problem;
  const A* location;
  const A* weight;
  Samples<A> samples;
  std::array<int64_t, Samples<A>::kOutputs> outputs;

  Walk(const Problem& problem, const A* location, const A* weight)
      : problem(problem), location(location), weight(weight), samples(problem.level, problem.points, problem.location_levels == 1) {}

  // visit(some) finds the samples of `outputs[0..some)` in `samples`, until there were `count`.
  template <typename OutputOf, typename Visit>
  void each(int64_t count, const OutputOf& output_of, const Visit& visit) {
    for (int64_t first = 0; first < count; first += samples.kOutputs) {
      const int64_t some = std::min(samples.kOutputs, count - first);
      for (int64_t place = 0; place < some; ++place) {
        outputs[place] = output_of(first + place);
        const int64_t ahead = output_of(std::min(first + place + kAhead, count - 1));
        prefetch(location + problem.location_of(ahead), 2 * problem.location_levels * problem.points);
        prefetch(weight + problem.weight_of(ahead), samples.each);
        samples.take(place, location + problem.location_of(outputs[place]), weight + problem.weight_of(outputs[place]));
      }
      samples.find(some);
      visit(some);
    }
  }
};

template <typename A, typename T>
void forward(const Problem& problem, const T* value, const A* location, const A* weight, T* out) {
  const int64_t channels = problem.channels, heads = problem.heads, wide = padded<A>(channels);
  const int64_t samples = problem.levels * problem.points, chunk = Samples<A>::kOutputs;
  // Copying an image's rows pays when they are read more than once on the average, and when there are tasks enough.
  const bool packed = problem.queries * samples * 4 > 2 * problem.images * problem.cells && problem.images * heads >= 2 * at::get_num_threads();
  const int64_t tasks = packed ? problem.images * heads : (problem.queries * heads + chunk - 1) / chunk;
  each_task(tasks, [&](std::atomic<int64_t>& next) {
    Walk<A> walk(problem, location, weight);
    std::vector<A> sum(wide), rows(packed ? problem.cells * wide : 0);
    const auto write = [&](int64_t place) {
      copy_row(sum.data(), channels, out + walk.outputs[place] * channels);
    };
    for (int64_t task = next++; task < tasks; task = next++) {
      if (packed) {
        const int64_t image = task / heads, head = task % heads;
        const int64_t* query = problem.order.data() + problem.begin[image];
        const int64_t queries = problem.begin[image + 1] - problem.begin[image];
        if (queries) copy_rows(value + problem.row_of(image, 0, head), heads * channels, problem.cells, channels, rows.data(), wide);
        walk.each(queries, [&](int64_t place) { return query[place] * heads + head; }, [&](int64_t count) {
          for (int64_t place = 0; place < count; ++place) prefetch<true>(out + walk.outputs[place] * channels, channels);
          for (int64_t place = 0; place < count; ++place) {
            gather(walk.samples, place, rows.data(), wide, wide, sum.data());
            write(place);
          }
        });
        continue;
      }
      const int64_t first = task * chunk;
      walk.each(std::min(chunk, problem.queries * heads - first), [&](int64_t place) { return first + place; }, [&](int64_t count) {
        for (int64_t place = 0; place < count; ++place) {
          const int64_t query = walk.outputs[place] / heads, head = walk.outputs[place] % heads;
          gather(walk.samples, place, value + problem.row_of(problem.image[query], 0, head), heads * channels, channels, sum.data());
          write(place);
        }
      });
    }
  });
}

// The gradients asked for; one that is null is not computed.
template <typename A, typename T>
struct Gradients {
  T* value;
  A* location;
  A* weight;
};

// One task owns an image and a head, and goes twice over their outputs, so that the cache must hold either the rows or their gradients.
template <typename A, typename T>
void backward(const Problem& problem, const T* value, const A* location, const A* weight, const T* out, const Gradients<A, T>& to) {
  const int64_t channels = problem.channels, heads = problem.heads, stride = heads * channels, tasks = problem.images * heads;
  const int64_t wide = padded<A>(channels);
  each_task(tasks, [&](std::atomic<int64_t>& next) {
    Walk<A> walk(problem, location, weight);
    Samples<A>& samples = walk.samples;
    std::vector<A> rows(problem.cells * wide), gradient(wide);
    const auto ask = [&](int64_t count) {
      for (int64_t place = 0; place < count; ++place) prefetch(out + walk.outputs[place] * channels, channels);
    };
    const auto read = [&](int64_t place) { copy_row(out + walk.outputs[place] * channels, channels, gradient.data()); };
    for (int64_t task = next++; task < tasks; task = next++) {
      const int64_t image = task / heads, head = task % heads, begin = problem.row_of(image, 0, head);
      const int64_t* query = problem.order.data() + problem.begin[image];
      const int64_t queries = problem.begin[image + 1] - problem.begin[image];
      const auto output_of = [&](int64_t place) { return query[place] * heads + head; };
      if (queries && (to.location || to.weight)) {
        copy_rows(value + begin, stride, problem.cells, channels, rows.data(), wide);
        walk.each(queries, output_of, [&](int64_t count) {
          ask(count);
          for (auto& dots : samples.dot) std::fill_n(dots.begin(), count * samples.each, A(0));
          for (int64_t place = 0; place < count; ++place) {
            read(place);
            dot(samples, place, rows.data(), wide, gradient.data());
          }
          samples.differentiate(count);
          for (int64_t place = 0; place < count; ++place) {
            if (to.weight) samples.give_weights(place, to.weight + problem.weight_of(walk.outputs[place]));
            if (to.location) samples.give_locations(place, to.location + problem.location_of(walk.outputs[place]));
          }
        });
      }
      if (to.value) {
        std::fill(rows.begin(), rows.end(), A(0));
        walk.each(queries, output_of, [&](int64_t count) {
          ask(count);
          for (int64_t place = 0; place < count; ++place) {
            read(place);
            scatter(samples, place, rows.data(), wide, gradient.data());
          }
        });
        copy_rows(rows.data(), wide, problem.cells, channels, to.value + begin, stride);
      }
    }
  });
}

template <typename Run>
int guarded(Problem& problem, const Run& run) {
  try {
    if (!problem.prepare()) return kImageOutOfRange;
    run();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (...) {
    return kFailed;
  }
}

template <typename Call>
int by_type(int type, const Call& call) {
  switch (type) {
    case 0: return call(float{}, float{});
    case 1: return call(double{}, double{});
    case 2: return call(float{}, c10::Half{});
    case 3: return call(float{}, c10::BFloat16{});
    default: return kUnknownType;
  }
}

Problem problem_of(const int64_t* sizes, const int64_t* shapes, const int64_t* image) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], shapes, image, {}, {}, {}};
}

}  // namespace

// type: 0 float, 1 double, 2 half, 3 bfloat16, the type of value and out; location and weight are double beside double, else float.
// sizes: images, cells, heads, channels, levels, levels of location (1 where shared), queries, points. All tensors are contiguous.
extern "C" int mmfs_forward(
    int type, const int64_t* sizes, const int64_t* shapes, const void* value, const void* location, const void* weight,
    const int64_t* image, void* out) {
  Problem problem = problem_of(sizes, shapes, image);
  return by_type(type, [&](auto arithmetic, auto memory) {
    using A = decltype(arithmetic);
    using T = decltype(memory);
    return guarded(problem, [&] {
      forward<A, T>(
          problem, static_cast<const T*>(value), static_cast<const A*>(location), static_cast<const A*>(weight), static_cast<T*>(out));
    });
  });
}

// gradient is that of out; a gradient that is not wanted is null.
extern "C" int mmfs_backward(
    int type, const int64_t* sizes, const int64_t* shapes, const void* value, const void* location, const void* weight,
    const int64_t* image, const void* gradient, void* to_value, void* to_location, void* to_weight) {
  Problem problem = problem_of(sizes, shapes, image);
  return by_type(type, [&](auto arithmetic, auto memory) {
    using A = decltype(arithmetic);
    using T = decltype(memory);
    return guarded(problem, [&] {
      backward<A, T>(
          problem, static_cast<const T*>(value), static_cast<const A*>(location), static_cast<const A*>(weight),
          static_cast<const T*>(gradient),
          {static_cast<T*>(to_value), static_cast<A*>(to_location), static_cast<A*>(to_weight)});
    });
  });
}
