/** The algorithms that exist. To add one, implement {@link Algorithm} and list it here; nothing else changes. */
import { algorithmNames } from "../model/data-request.ts";
import { AppError } from "../errors.ts";
import { count } from "./count.ts";
import { max, min } from "./extremes.ts";
import { histogram } from "./histogram.ts";
import { median } from "./median.ts";
import { average, standardDeviation, sum, variance } from "./moments.ts";
import type { Algorithm } from "./summary.ts";

/** Every algorithm, in the order of the documentation. */
export const ALGORITHMS: readonly Algorithm[] = [
  count,
  sum,
  average,
  min,
  max,
  variance,
  standardDeviation,
  median,
  histogram,
];

/** Other names that people use, in lower case. */
const ALIASES: ReadonlyMap<string, string> = new Map([
  ["avg", "average"],
  ["mean", "average"],
  ["minimum", "min"],
  ["maximum", "max"],
  ["total", "sum"],
  ["var", "variance"],
  ["std", "standardDeviation"],
  ["stddev", "standardDeviation"],
  ["stdev", "standardDeviation"],
  ["sd", "standardDeviation"],
]);

/** The algorithm of this name or alias, in any case; `algorithm_unknown` lists those that there are. */
export function algorithmNamed(name: string): Algorithm {
  const canonical = canonicalAlgorithmName(name);
  const algorithm = ALGORITHMS.find((candidate) => candidate.name === canonical);
  if (algorithm) return algorithm;
  const known = ALGORITHMS.map((candidate) => candidate.name);
  throw new AppError("algorithm_unknown", `There is no algorithm "${name.trim()}". Known: ${known.join(", ")}.`, {
    details: { known },
  });
}

/** The algorithm's own name for an alias in any case; a name that is of no algorithm as it is. */
export function canonicalAlgorithmName(name: string): string {
  const wanted = name.trim().toLowerCase();
  const canonical = (ALIASES.get(wanted) ?? wanted).toLowerCase();
  return ALGORITHMS.find((candidate) => candidate.name.toLowerCase() === canonical)?.name ?? name.trim();
}

/** The algorithms that a request names, separated by commas, each once. Empty for an empty text. */
export function algorithmsNamed(names: string): readonly Algorithm[] {
  return [...new Set(algorithmNames(names).map(algorithmNamed))];
}
