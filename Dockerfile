# docker build -t deblora . && docker run --rm -v "$PWD:/work" deblora run chips --out runs/mine
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt .
WORKDIR /work
ENTRYPOINT ["deblora"]
CMD ["--help"]
