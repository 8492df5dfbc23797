-- wrk script: the results as one line of JSON; with PACE_MS in the environment, each connection
-- rests that many milliseconds on average between an answer and its next request.
local pace = tonumber(os.getenv("PACE_MS") or "")

if pace then
   function delay()
      return math.random(0, 2 * pace)
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "seconds": %f, "p50_us": %d, "p99_us": %d, ' ..
      '"errors": %d, "failures": "connect %d, read %d, write %d, status %d, timeout %d"}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
