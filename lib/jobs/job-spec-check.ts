/** Refuses job specifications that no runner could start, before anything is made. Pure. */
import { AppError } from "../errors.ts";
import type { JobSpec } from "./job-runner.ts";

/** Fails with `invalid_argument`, naming every fault. `steward` is the one that the runner works for. */
export function checkJobSpec(spec: JobSpec, steward: string): void {
  const containers = [...spec.microservices, spec.sidecar];
  const faults = [
    ...(isDnsLabel(spec.name) ? [] : [`the job's name ${JSON.stringify(spec.name)} is not a DNS label (RFC 1123)`]),
    ...(spec.steward === steward ? [] : [`it is for steward ${spec.steward}, and this runner works for ${steward}`]),
    ...(spec.microservices.length > 0 ? [] : ["its chain has no microservice"]),
    ...(Number.isFinite(spec.deadlineMs) ? [] : ["its deadline is not a time"]),
    ...containers
      .filter((container) => !isDnsLabel(container.name))
      .map((container) => `the container's name ${JSON.stringify(container.name)} is not a DNS label (RFC 1123)`),
    ...containers
      .filter((container, index) => containers.findIndex((other) => other.name === container.name) < index)
      .map((container) => `two containers are called ${container.name}`),
    ...containers
      .filter((container) => !(container.memoryLimitBytes > 0))
      .map((container) => `container ${container.name} has no memory limit above 0`),
  ];
  if (faults.length === 0) return;
  throw new AppError("invalid_argument", `The job cannot be started: ${faults.join("; ")}.`, { details: { faults } });
}

/** Whether a text is a DNS label (RFC 1123): what jobs and containers are called on every runner. */
export function isDnsLabel(name: string): boolean {
  return /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name);
}
