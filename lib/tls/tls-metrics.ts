/** Figures of TLS files that change while a program runs. */
import { dynamosMeter } from "../telemetry/metrics.ts";

/** Counts what became of changed files, by what they hold. */
export function countRenewals(files: "certificate" | "authorities"): (outcome: "taken" | "refused") => void {
  const renewals = dynamosMeter().createCounter("dynamos.tls.renewals", {
    description: "Changed TLS files, taken or refused",
  });
  return (outcome) => renewals.add(1, { files, outcome });
}
