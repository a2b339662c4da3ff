// The arithmetic on rows of channels, for a list of samples; no threads, no memory of its own.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "samples.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace sampling {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

// A is the type of the arithmetic (float or double), T the type in memory.
template <typename A>
struct Simd {
  typedef A Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t lanes = kVectorBytes / sizeof(A);
};

template <typename A>
constexpr int64_t padded(int64_t channels) {
  return (channels + Simd<A>::lanes - 1) / Simd<A>::lanes * Simd<A>::lanes;
}

template <typename A, typename T>
inline typename Simd<A>::Vector load(const T* from) {
  typename Simd<A>::Vector vector;
  if constexpr (std::is_same_v<A, T>) {
    std::memcpy(&vector, from, sizeof vector);
    return vector;
  }
#if defined(__F16C__)
  if constexpr (std::is_same_v<T, c10::Half> && kVectorBytes == 32) {
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    std::memcpy(&vector, &wide, sizeof vector);
    return vector;
  }
#endif
  A values[Simd<A>::lanes];
  for (int64_t lane = 0; lane < Simd<A>::lanes; ++lane) values[lane] = static_cast<A>(from[lane]);
  std::memcpy(&vector, values, sizeof vector);
  return vector;
}

template <typename A>
inline void store(A* to, const typename Simd<A>::Vector& vector) {
  std::memcpy(to, &vector, sizeof vector);
}

// Runs block(first channel, N) over all vectors of `channels`; a block of N vectors stays in registers. Returns the channels done.
template <typename A, typename Block>
inline int64_t in_blocks(int64_t channels, const Block& block) {
  constexpr int64_t lanes = Simd<A>::lanes;
  int64_t done = 0;
  for (; done + 8 * lanes <= channels; done += 8 * lanes) block(done, std::integral_constant<int, 8>());
  for (; done + 4 * lanes <= channels; done += 4 * lanes) block(done, std::integral_constant<int, 4>());
  for (; done + lanes <= channels; done += lanes) block(done, std::integral_constant<int, 1>());
  return done;
}

// out[0..channels) = the sum of one output's samples: share * row over their corners, where a cell's row begins at base + cell * stride.
template <typename A, typename T>
inline void gather(const Samples<A>& samples, int64_t output, const T* base, int64_t stride, int64_t channels, A* out) {
  constexpr int64_t lanes = Simd<A>::lanes;
  const auto [first, last] = samples.of(output);
  int64_t done = in_blocks<A>(channels, [&](int64_t begin, auto size) {
    constexpr int N = decltype(size)::value;
    typename Simd<A>::Vector sum[N];
    for (int part = 0; part < N; ++part) sum[part] = typename Simd<A>::Vector{};
    for (const int32_t* place = first; place < last; ++place) {
      for (int corner = 0; corner < 4; ++corner) {
        const T* row = base + samples.cell[corner][*place] * stride + begin;
        const A share = samples.share[corner][*place];
        for (int part = 0; part < N; ++part) sum[part] += share * load<A>(row + part * lanes);
      }
    }
    for (int part = 0; part < N; ++part) store(out + begin + part * lanes, sum[part]);
  });
  for (; done < channels; ++done) {
    A sum = 0;
    for (const int32_t* place = first; place < last; ++place) {
      for (int corner = 0; corner < 4; ++corner) {
        sum += samples.share[corner][*place] * static_cast<A>(base[samples.cell[corner][*place] * stride + done]);
      }
    }
    out[done] = sum;
  }
}

// The sum of the numbers of a vector.
template <typename A>
inline A total(const typename Simd<A>::Vector& vector) {
  A parts[Simd<A>::lanes];
  std::memcpy(parts, &vector, sizeof parts);
  for (int64_t width = Simd<A>::lanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) parts[lane] += parts[lane + width];
  }
  return parts[0];
}

// Adds to the dots of one output's samples: the product of each corner's row with the gradient. Channels are padded.
template <typename A>
inline void dot(Samples<A>& samples, int64_t output, const A* rows, int64_t channels, const A* gradient) {
  constexpr int64_t lanes = Simd<A>::lanes;
  const auto [first, last] = samples.of(output);
  in_blocks<A>(channels, [&](int64_t begin, auto size) {
    constexpr int N = decltype(size)::value;
    typename Simd<A>::Vector part[N];
    for (int each = 0; each < N; ++each) part[each] = load<A>(gradient + begin + each * lanes);
    for (const int32_t* place = first; place < last; ++place) {
      for (int corner = 0; corner < 4; ++corner) {
        const A* row = rows + samples.cell[corner][*place] * channels + begin;
        typename Simd<A>::Vector sum = load<A>(row) * part[0];
        for (int each = 1; each < N; ++each) sum += load<A>(row + each * lanes) * part[each];
        samples.dot[corner][*place] += total<A>(sum);
      }
    }
  });
}

// Adds share * gradient to the row of each corner of one output's samples. Channels are padded.
template <typename A>
inline void scatter(const Samples<A>& samples, int64_t output, A* rows, int64_t channels, const A* gradient) {
  constexpr int64_t lanes = Simd<A>::lanes;
  const auto [first, last] = samples.of(output);
  in_blocks<A>(channels, [&](int64_t begin, auto size) {
    constexpr int N = decltype(size)::value;
    typename Simd<A>::Vector part[N];
    for (int each = 0; each < N; ++each) part[each] = load<A>(gradient + begin + each * lanes);
    for (const int32_t* place = first; place < last; ++place) {
      for (int corner = 0; corner < 4; ++corner) {
        A* row = rows + samples.cell[corner][*place] * channels + begin;
        const A share = samples.share[corner][*place];
        for (int each = 0; each < N; ++each) store(row + each * lanes, load<A>(row + each * lanes) + share * part[each]);
      }
    }
  });
}

}  // namespace sampling
