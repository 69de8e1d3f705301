/** Listening, with an error that says what to change where an address cannot be had. */
import { AppError } from "../errors.ts";

/** Where to listen, and the settings that say so, by name. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
  readonly hostSetting: string;
  readonly portSetting: string;
}

/**
 * Listens.
 *
 * @param listen begins it, and rejects as Node's servers do.
 * @throws AppError `unavailable` where another program has the port; `configuration_invalid` for a host that is none of this
 * machine's, or a port that this user may not have. What else goes wrong is thrown as it is.
 */
export async function listenAt<Result>(
  { host, port, hostSetting, portSetting }: ListenAddress,
  listen: () => Promise<Result>,
): Promise<Result> {
  try {
    return await listen();
  } catch (cause) {
    const details = { host, port };
    switch (String((cause as NodeJS.ErrnoException).code)) {
      case "EADDRINUSE":
        throw new AppError(
          "unavailable",
          `Port ${String(port)} of ${host} is in use by another program: end that one, or set ${portSetting} to another port.`,
          { cause, details },
        );
      case "EACCES":
        throw new AppError(
          "configuration_invalid",
          `This user may not listen on port ${String(port)} of ${host}: set ${portSetting} to one from 1024.`,
          { cause, details },
        );
      case "EADDRNOTAVAIL":
      case "ENOTFOUND":
        throw new AppError(
          "configuration_invalid",
          `${host} is no address of this machine: set ${hostSetting} to one, 0.0.0.0 for all of them.`,
          { cause, details },
        );
      default:
        throw cause;
    }
  }
}

/** {@link listenAt} by the settings that services have. */
export function listenBySettings<Result>(
  { DYNAMOS_HOST: host, DYNAMOS_PORT: port }: { readonly DYNAMOS_HOST: string; readonly DYNAMOS_PORT: number },
  listen: (address: { readonly host: string; readonly port: number }) => Promise<Result>,
): Promise<Result> {
  const settings = { hostSetting: "DYNAMOS_HOST", portSetting: "DYNAMOS_PORT" };
  return listenAt({ host, port, ...settings }, () => listen({ host, port }));
}
