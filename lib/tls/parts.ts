/** What the parts of TLS share. */
import type { Clock } from "../clock.ts";
import type { Logger } from "../telemetry/logger.ts";

/** The lowest version that is spoken, by servers and by callers (RFC 8996 has done with those below). */
export const LOWEST_TLS = "TLSv1.2";

/** What following files needs. */
export interface TlsParts {
  readonly clock: Clock;
  readonly logger: Logger;
  /** How often the files are looked at, in milliseconds; default 5,000. */
  readonly lookEveryMs?: number;
}
