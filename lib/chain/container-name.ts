/** What a microservice's container is called in a job; pure. Documents' names allow more than containers' names, which are DNS labels. */
import { AppError } from "../errors.ts";

/** The name of the container beside the microservices in every job. */
export const SIDECAR_CONTAINER = "sidecar";

/** A microservice's name as a DNS label. */
export function containerName(microservice: string): string {
  return microservice
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/-+$/, "");
}

/** Fails with `chain_invalid` where two of these microservices, or one and the sidecar, would be called the same in a job. */
export function requireContainerNames(microservices: readonly string[]): void {
  const taken = new Map<string, string>([[SIDECAR_CONTAINER, "the sidecar"]]);
  for (const name of [...microservices].sort()) {
    const container = containerName(name);
    const other = taken.get(container);
    if (other !== undefined) {
      throw new AppError(
        "chain_invalid",
        `Microservice "${name}" would be called "${container}" in a job, as ${other} is: give it another name.`,
        { place: { pointer: "/name" }, details: { microservice: name, container } },
      );
    }
    taken.set(container, `microservice "${name}"`);
  }
}
