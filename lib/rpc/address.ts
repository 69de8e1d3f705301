/** Where programs on one machine, or in one pod, meet: a port on loopback, or a Unix socket. Nothing here is encrypted. */
import { AppError } from "../errors.ts";

/** A port on 127.0.0.1, or the absolute path of a Unix socket. */
export type RpcAddress = { readonly port: number } | { readonly socketPath: string };

/** Linux' `sun_path`, without its closing zero (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

/**
 * Reads `127.0.0.1:<port>` or `unix:<absolute path>`. Anything else is `configuration_invalid`; so is another host, because
 * whoever reached such a port could do all that its services offer.
 */
export function parseRpcAddress(text: string): RpcAddress {
  if (text.startsWith("unix:")) {
    const socketPath = text.slice("unix:".length);
    const bytes = Buffer.byteLength(socketPath);
    if (!socketPath.startsWith("/") || bytes > MAX_SOCKET_PATH_BYTES) {
      throw invalid(text, `a socket's path is absolute and has at most ${MAX_SOCKET_PATH_BYTES} bytes`);
    }
    return { socketPath };
  }
  const port = /^127\.0\.0\.1:(\d{1,5})$/.exec(text)?.[1];
  if (port === undefined || Number(port) > 65_535) throw invalid(text, "it is neither");
  return { port: Number(port) };
}

/** What {@link parseRpcAddress} reads; also what grpc-js calls a target. */
export function formatRpcAddress(address: RpcAddress): string {
  return "port" in address ? `127.0.0.1:${address.port}` : `unix:${address.socketPath}`;
}

function invalid(text: string, why: string): AppError {
  return new AppError(
    "configuration_invalid",
    `"${text}" is no address: write 127.0.0.1:<port> or unix:<absolute path>; ${why}.`,
  );
}
