/** The URL of an embedded bus: `embedded:<path of the SQLite file>`, and perhaps `?maxBytes=<number>`, what the file may grow to. */
import { AppError } from "../errors.ts";

const SCHEME = "embedded:";
/** Below it not even the tables of a bus find room. */
const LEAST_BYTES = 1024 * 1024;

/** What such a URL says. */
export interface EmbeddedBusPlace {
  readonly path: string;
  /** Most bytes of the file; absent: no bound but the disk's. */
  readonly maxBytes?: number;
}

/** Reads the URL; undefined for one of another scheme. Fails with `configuration_invalid` where it names no file or a wrong limit. */
export function parseEmbeddedBusUrl(url: string): EmbeddedBusPlace | undefined {
  if (!url.startsWith(SCHEME)) return undefined;
  // Only what looks like a parameter is one: a path may have any character.
  const [, path = "", limit] = /^(.*?)(?:\?maxBytes=([^?]*))?$/s.exec(url.slice(SCHEME.length)) ?? [];
  if (path === "") {
    throw new AppError("configuration_invalid", "The bus URL names no file: write embedded:<path of the SQLite file>.");
  }
  if (limit === undefined) return { path };
  const maxBytes = /^\d{1,15}$/.test(limit) ? Number(limit) : NaN;
  if (!(maxBytes >= LEAST_BYTES)) {
    throw new AppError(
      "configuration_invalid",
      `The bus URL's maxBytes is "${limit}": write a number of bytes from ${String(LEAST_BYTES)} on, such as embedded:bus.db?maxBytes=1000000000.`,
    );
  }
  return { path, maxBytes };
}

/** The URL of a place. */
export function embeddedBusUrl({ path, maxBytes }: EmbeddedBusPlace): string {
  return `${SCHEME}${path}${maxBytes === undefined ? "" : `?maxBytes=${String(maxBytes)}`}`;
}
