/** How long HTTP answers take, by route and status: OpenTelemetry's `http.server.request.duration`. */
import type { FastifyInstance } from "fastify";
import { dynamosMeter } from "../telemetry/metrics.ts";

const MS_PER_S = 1000;

/** Measures every answer of this server, from the request's head to the last byte; one that broke off counts with its status. */
export function measureAnswers(server: FastifyInstance): void {
  const duration = dynamosMeter().createHistogram("http.server.request.duration", {
    unit: "s",
    description: "Duration of HTTP answers",
  });
  server.addHook("onResponse", async (request, reply) => {
    const route = request.routeOptions.url;
    duration.record(reply.elapsedTime / MS_PER_S, {
      "http.request.method": request.method,
      // The route's pattern: the URL may carry a name, and there is no end of URLs.
      ...(route === undefined ? {} : { "http.route": route }),
      "http.response.status_code": reply.statusCode,
    });
  });
}
