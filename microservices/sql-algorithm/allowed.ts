/** What the grants behind a stream allow an algorithm to do. Pure. */
import { canonicalAlgorithmName } from "../../lib/algorithms/registry.ts";
import { AppError } from "../../lib/errors.ts";
import type { Grant } from "../../lib/model/grant.ts";

/** The strictest of all grants. */
export interface AlgorithmRules {
  /** Whether rows may leave without an algorithm. */
  readonly rawRows: boolean;
  /** Names of the algorithms allowed; absent: all. */
  readonly operations?: readonly string[];
  readonly minimumGroupSize: number;
}

/**
 * The rules of the grants under which rows are here: each data provider's word counts, the strictest wins. A third party's
 * own grant, which has no data sets, gives only a minimum group size.
 */
export function rulesOf(grants: readonly Grant[]): AlgorithmRules {
  const ofData = grants.filter(({ dataSets }) => dataSets.length > 0);
  const lists = ofData.flatMap(({ operations }) => (operations ? [operations.map(canonicalAlgorithmName)] : []));
  const [first, ...others] = lists;
  return {
    rawRows: ofData.length > 0 && ofData.every(({ rawRows }) => rawRows),
    ...(first === undefined
      ? {}
      : { operations: first.filter((name) => others.every((names) => names.includes(name))) }),
    minimumGroupSize: Math.max(1, ...grants.map(({ minimumGroupSize }) => minimumGroupSize)),
  };
}

/** Fails with `operation_denied`, with the allowed ones, unless all these algorithms are. */
export function checkOperations(names: readonly string[], { operations }: AlgorithmRules): void {
  const denied = names.find((name) => operations !== undefined && !operations.includes(name));
  if (denied === undefined || operations === undefined) return;
  throw new AppError(
    "operation_denied",
    `The agreement does not allow the algorithm ${denied}. It allows: ${operations.join(", ") || "none"}.`,
    { details: { algorithm: denied, allowed: operations } },
  );
}

/** Fails with `operation_denied` unless rows may leave as they are. */
export function checkRawRows({ rawRows, operations }: AlgorithmRules): void {
  if (rawRows) return;
  throw new AppError(
    "operation_denied",
    "The request names no algorithm, and the agreement does not let rows leave as they are. Name an algorithm" +
      `${operations ? ` (${operations.join(", ")})` : ""}, or ask the data steward for rawRows in the agreement.`,
    { details: operations ? { allowed: operations } : {} },
  );
}
