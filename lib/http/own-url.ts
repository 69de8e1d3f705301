/** The URL that others reach this very process at. */
import { AppError } from "../errors.ts";

/** What it follows from. */
export interface OwnUrlOptions {
  /** What the operator says: `DYNAMOS_INSTANCE_URL`. */
  readonly given: string | undefined;
  /** What is listened on: `DYNAMOS_HOST`, and the port that it came to. */
  readonly host: string;
  readonly port: number;
  readonly isTls: boolean;
}

/** Hosts that mean every address of the machine, and so none to call, with the one that is this machine to itself. */
const ALL_ADDRESSES: Readonly<Record<string, string>> = { "0.0.0.0": "127.0.0.1", "::": "::1" };

/**
 * The operator's URL, or scheme, host and port; of a server at all addresses that is one which this machine alone can call.
 *
 * @throws AppError `configuration_invalid` where the operator's URL is none, or is `http` while TLS is served.
 */
export function ownUrl({ given, host, port, isTls }: OwnUrlOptions): string {
  if (given === undefined) {
    const name = ALL_ADDRESSES[host] ?? host;
    return `${isTls ? "https" : "http"}://${name.includes(":") ? `[${name}]` : name}:${String(port)}`;
  }
  const protocol = URL.canParse(given) ? new URL(given).protocol : "";
  if (protocol !== "http:" && protocol !== "https:") {
    throw new AppError("configuration_invalid", `DYNAMOS_INSTANCE_URL is no http or https URL: ${given}`);
  }
  if (isTls && protocol === "http:") {
    throw new AppError(
      "configuration_invalid",
      `DYNAMOS_INSTANCE_URL is ${given}, and TLS is served there (DYNAMOS_TLS_CERT_FILE): write https.`,
    );
  }
  return given;
}

/** Whether others, on other machines, cannot call the URL that {@link ownUrl} makes of this. */
export function isOwnUrlLocal({ given, host }: Pick<OwnUrlOptions, "given" | "host">): boolean {
  return given === undefined && host in ALL_ADDRESSES;
}
